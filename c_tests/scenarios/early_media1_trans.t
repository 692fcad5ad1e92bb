title early_media: the 183 with a body is a record, so is the 200
include base.inc
modparam early_media 1
route request main {
  do_accounting("log|db|evi") -> 1
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
reply 3 invite 180 totag=bob-1
reply 2 invite 183 totag=bob-1 body
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=183;reason=Session Progress;{$X};{$L}"
expect no log "ACC: *"
reply 3 invite 200 totag=bob-1 body
expect log "{$TRAN};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT sip_code FROM acc ORDER BY 1" "183\n200"
