title the line: level, stderr off, the facility is not an error
include base.inc
host loglevel 1
modparam log_level 2
route request main {
  acc_log_request("200 quiet") -> 1
}
start
recv 1 invite
expect no log "ACC: *"
stop
modparam log_level 1
modparam log_facility "LOG_LOCAL5"
start
recv 1 invite
expect log "ACC: request accounted: *;reason=quiet"
stop
host stderr off
start
recv 1 invite
expect no log "ACC: *"
