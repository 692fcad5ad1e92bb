title what a comment means: code and reason, reason only, code only, a variable
include base.inc
route request main {
  acc_log_request("just words") -> 1
  acc_log_request("480") -> 1
  $var(c) = "404 of $ru"
  acc_log_request($var(c)) -> 1
  acc_log_request("404 for $rU") -> 1
  acc_evi_request("200 fine") -> 1
  acc_evi_request("words") -> 1
  acc_evi_request("486 busy") -> 1
}
start
recv 1 invite
expect log "ACC: request accounted: *;code=;reason=just words"
expect log "ACC: request accounted: *;code=480;reason=Temporarily Unavailable"
expect log "ACC: request accounted: *;code=404;reason=of sip:bob@example.com"
expect log "ACC: request accounted: *;code=404;reason=for bob"
expect event "E_ACC_EVENT * sip_code=\"200\" sip_reason=\"fine\" *"
expect event "E_ACC_EVENT * sip_reason=\"words\" *"
expect event "E_ACC_MISSED_EVENT * sip_code=\"486\" *"
expect no log "ACC: *"
expect no event "E_ACC*"
expect live 0
