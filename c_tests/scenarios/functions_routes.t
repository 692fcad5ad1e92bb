title which routes the functions may be used in; the variables work in all
include base.inc
route failure f {
  do_accounting("log") -> 1
  drop_accounting() -> 1
  acc_log_request("1") -> 1
  acc_evi_request("1") -> 1
  acc_db_request("1", "acc") -> 1
  acc_new_leg() -> 1
}
route branch b {
  do_accounting("log") -> 1
  drop_accounting() -> 1
  acc_log_request("1") -> 1
  acc_new_leg() -> 1
  check $acc_extra(note) "set"
}
route onreply r {
  acc_load_ctx_from_dlg() -> -1
  acc_unload_ctx_from_dlg() -> -1
  check $acc_extra(note) "set"
}
route timer t {
  acc_load_ctx_from_dlg() -> -1
  $acc_extra(note) = "timer" -> 1
  check $acc_extra(note) "timer"
}
route event e {
  acc_unload_ctx_from_dlg() -> -1
  $acc_extra(note) = "event" -> 1
  check $acc_extra(note) "event"
}
route error x {
  $acc_extra(note) = "error" -> 1
}
route startup s {
  check $acc_extra(note) null
}
route request main {
  $acc_extra(note) = "set"
  do_accounting("log", "missed")
  t_on_failure("f")
  t_on_branch("b")
  t_on_reply("r")
  t_relay()
}
start
run 1 startup s
run 2 timer t
run 3 event e
run 1 error x
recv 1 invite
reply 2 invite 486 totag=bob-1
reap
expect live 0
