title transaction records of the INVITE and of the BYE of the caller
include ans_trans.inc
recv 3 bye end
reply 1 bye 200
expect log "{$TRAN};method=BYE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=OK;x_caller=;callee=;x_num=;x_note=bye;x_unset=;{$L0}"
expect no log "ACC: *"
expect event "E_ACC_EVENT method=\"BYE\" * x_note=\"bye\" x_unset=null {$EL0}"
expect no event "E_ACC*"
expect row "SELECT method,sip_code,x_caller,x_note,coalesce(duration,0),coalesce(ms_duration,0) FROM acc ORDER BY method" "BYE|200|NULL|bye|0|0\nINVITE|200|sip:alice@example.com|init|0|0"
