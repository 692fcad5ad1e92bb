title the host itself: a variable read on the shared request stops everything
modparam poison 1
include call.inc
route request main {
  stub_mark("x")
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=b dies
expect log "HOST ABORT in worker 2: $ft read on the shared request*"
expect log "*exited by a signal 6"
expect log "STUB end"
expect down
