title values set in replies: global and named onreply route, before and after the transaction is known
include base.inc
route onreply global {
  $acc_extra(note) = "global $rs"
}
route onreply named {
  check $acc_extra(caller) "sip:alice@example.com"
  $acc_extra(num) = $rs
}
route request main {
  $acc_extra(caller) = $fu
  do_accounting("log", "cdr") -> 1
  t_on_reply("named")
  t_relay()
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 3 ack inside
recv 3 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};x_caller=sip:alice@example.com;callee=;x_num=200;x_note=global 200;x_unset=;{$L0}"
expect no log "ACC: *"
reap
expect live 0
