title a manual function whose backend lacks its parameter: a warning at the start, and false when it is called
include base.inc
modparam db_url unset
modparam extra_fields unset
modparam leg_fields unset
route request main {
  acc_db_request("404 Not Found", "acc") -> -1
  acc_log_request("404 Not Found")
}
start
expect log "*WARNING*accounting to db needs the parameter db_url: set it*false*"
recv 1 invite
expect log "ACC: request accounted: *code=404;reason=Not Found*"
stop
