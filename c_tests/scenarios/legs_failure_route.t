title a leg in the failure route; three legs in the missed record
include base.inc
route failure fail {
  acc_new_leg() -> 1
  $acc_leg(leg_dst) = "sip:carol"
  check $acc_extra(note) "init"
  t_relay()
}
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  acc_new_leg() -> 1
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-0
expect log "{$MISSED};*;{$X};{$L};{$L0}"
reply 3 invite.1 404 totag=bob-1
expect log "{$TRAN};*;code=404;reason=Not Found;{$X};{$L};{$L0};x_leg_src=;leg_dst=sip:carol"
expect no log "ACC: *"
expect row "SELECT count(*) FROM missed_calls" "2"
expect row "SELECT count(*) FROM acc" "3"
