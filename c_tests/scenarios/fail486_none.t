title busy without flags: nothing
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
reply 2 invite 486 totag=bob-1
expect no log "ACC: *"
expect no event "E_ACC*"
expect row "SELECT (SELECT count(*) FROM acc) + (SELECT count(*) FROM missed_calls)" "0"
reap
expect live 0
