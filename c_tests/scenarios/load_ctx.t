title the context of the dialog, loaded into a request outside of it
include base.inc
route request end {
  acc_load_ctx_from_dlg() -> -1
  acc_unload_ctx_from_dlg() -> -1
  $acc_extra(note) = "own"
  loose_route()
  acc_load_ctx_from_dlg() -> 1
  acc_load_ctx_from_dlg() -> -1
  check $acc_extra(caller) "sip:alice@example.com"
  acc_unload_ctx_from_dlg() -> 1
  acc_unload_ctx_from_dlg() -> -1
  t_relay()
}
route request forgets {
  loose_route()
  acc_load_ctx_from_dlg() -> 1
  t_relay()
}
include up.inc
recv 2 info forgets
reply 2 info 200
expect log "*WARNING*"
recv 2 bye end
reply 3 bye 200
expect log "ACC: call ended: *"
expect no log "ACC: *"
reap
expect live 0
