title a 183 with a body, early_media off: one record, of the 200
include base.inc
route request main {
  do_accounting("log|db|evi") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 183 totag=bob-1 body
reply 3 invite 200 totag=bob-1 body
expect log "{$TRAN};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT sip_code FROM acc" "200"
reap
expect live 0
