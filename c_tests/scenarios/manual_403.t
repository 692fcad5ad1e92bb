title manual records without a context
include base.inc
route request main {
  acc_log_request("403 Not for you") -> 1
  acc_db_request("403 Not for you", "acc") -> 1
  acc_evi_request("403 Not for you") -> 1
  sl_send_reply(403, "Not for you")
}
start
recv 1 invite
expect log "ACC: request accounted: timestamp={t};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=403;reason=Not for you"
expect event "E_ACC_MISSED_EVENT method=\"INVITE\" from_tag=\"alice-1\" to_tag=null callid=\"call-1@test\" sip_code=\"403\" sip_reason=\"Not for you\" time={t}*"
expect row "SELECT method,from_tag,to_tag,callid,sip_code,sip_reason,x_note FROM acc" "INVITE|alice-1||call-1@test|403|Not for you|NULL"
expect no log "ACC: *"
expect no event "E_ACC*"
expect live 0
