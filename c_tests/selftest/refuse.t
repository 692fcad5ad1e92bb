title the host itself: what stops a start
include call.inc
modparam refuse 1
start fails 255
expect log "*failed to initialize module stub"
modparam refuse unset
modparam nothing 1
start fails 255
expect log "*parameter <nothing> not found in module <stub>"
modparam nothing unset
modparam number "1"
start fails 255
expect log "*type mismatch for parameter <number> in module <stub>"
modparam number unset
host tm off
start fails 255
expect log "*module stub depends on module tm, but it was not loaded!"
host tm on
route request one {
  stub_mark("bad")
}
start fails 255
expect log "*Fixup failed for param \[1]"
route request one {
  stub_mark()
}
start fails 255
expect log "*Too few parameters for command <stub_mark>"
route request one {
  stub_event()
}
route failure two {
  stub_mark("x")
}
start fails 255
expect log "*Command <stub_mark> cannot be used in the block"
