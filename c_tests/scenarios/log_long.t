title a long line, and a value with a newline in the head
include base.inc
route request main {
  $acc_extra(note) = "{y*9000}"
  acc_log_request("200 two\r\nlines") -> 1
}
start
recv 1 invite
expect log "ACC: request accounted: *;code=200;reason=two\\\\x0d\\\\x0alines;*"
