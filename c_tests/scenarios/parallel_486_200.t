title one branch busy, the other answers: only the CDR
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  append_branch()
  t_relay()
}
start
recv 1 invite
reply 2 invite.1 486 totag=bob-2
reply 3 invite.0 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 3 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT count(*) FROM missed_calls" "0"
expect row "SELECT sip_code, to_tag FROM acc" "200|bob-1"
reap
expect live 0
