title with detect_direction the record of Bob's BYE names Alice as the caller, manual ones from do_accounting() on
include base.inc
modparam detect_direction 1
route request main {
  t_relay()
}
route request end {
  loose_route()
  acc_log_request("before") -> 1
  do_accounting("log|db|evi") -> 1
  acc_log_request("behind") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
reap
recv 3 bye_bob end
reply 1 bye_bob 200
expect log "*;method=BYE;from_tag=bob-1;to_tag=alice-1;*;reason=before*"
expect log "*;method=BYE;from_tag=alice-1;to_tag=bob-1;*;reason=behind*"
expect log "{$TRAN};method=BYE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=OK;{$X0};{$L0}"
expect event "E_ACC_EVENT method=\"BYE\" from_tag=\"alice-1\" to_tag=\"bob-1\" *"
stop
host rr nofromtag
start fails
expect log "*append_fromtag*"
