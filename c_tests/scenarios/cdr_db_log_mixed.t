title flags belong to the backends of the same call: CDR to the log, transaction to the database
include base.inc
route request main {
  do_accounting("log", "cdr") -> 1
  do_accounting("db") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
expect row "SELECT method, sip_code, coalesce(ms_duration,0) FROM acc" "INVITE|200|0"
expect no log "ACC: *"
recv 3 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect row "SELECT count(*) FROM acc" "1"
