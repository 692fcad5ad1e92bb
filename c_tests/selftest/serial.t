title the host itself: failures, new branches, a timeout in the timer process, a stored reply, many calls
include call.inc
route failure again {
  check $ft "alice-0"
  t_on_failure("last")
  append_branch()
  t_relay() -> 1
}
route failure last {
  xlog "last one"
}
route request main {
  stub_mark("x")
  t_on_failure("again")
  t_relay() -> 1
  stub_put() -> 1
}
start
recv 1 invite
reply 2 invite 486 totag=b0
expect log "STUB tm 0x20 code 486 in {n} ctx in-tran"
expect no log "STUB tm 0x80 *"
reply 1 invite.1 404 totag=b1
timeout invite.2
expect log "STUB tm 0x20 code 404 in {n} ctx in-tran"
expect log "X> last one"
expect log "STUB tm 0x80 code 404 in 2 ctx in-tran"
expect log "STUB dialog 0x4 direction 2 msg 1 current"
reap
expect live 0

loop 300
recv 1 invite as many
reply 2 many 200 totag=b
reap
end
expect live 300
stop
expect live 0
