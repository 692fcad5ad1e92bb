title reading and writing the variables
include base.inc
route request main {
  check $acc_extra(note) null
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  check $acc_extra(caller) "sip:alice@example.com"
  check $acc_extra(num) "42"
  check $acc_extra(unset) null
  check $acc_current_leg 0
  check $acc_leg(leg_src) "sip:alice@example.com"
  acc_new_leg() -> 1
  check $acc_current_leg 1
  check $acc_leg(leg_src) null
  $acc_leg(leg_src) = "second"
  check $(acc_leg(leg_src)[0]) "sip:alice@example.com"
  check $(acc_leg(leg_src)[1]) "second"
  check $(acc_leg(leg_src)[-1]) "second"
  check $(acc_leg(leg_src)[-2]) "sip:alice@example.com"
  $var(i) = 1
  check $(acc_leg(leg_src)[$var(i)]) "second"
  $var(i) = "0"
  check $(acc_leg(leg_src)[$var(i)]) "sip:alice@example.com"
  check $(acc_leg(leg_src)[2]) null
  $(acc_leg(leg_src)[2]) = "none" -> -1
  $(acc_leg(leg_src)[-3]) = "none" -> -1
  $(acc_leg(leg_dst)[0]) = "changed" -> 1
  $acc_extra(num) = -7 -> 1
  check $acc_extra(num) "-7"
  $acc_extra(num) = $null -> 1
  check $acc_extra(num) null
  $acc_extra(num) = "" -> 1
  t_relay()
}
route request inside {
  loose_route()
  xlog "$rm note=$acc_extra(note) leg=$acc_current_leg src=$(acc_leg(leg_src)[0])"
  t_relay()
}
include up.inc
recv 2 bye inside
reply 3 bye 200
expect log "X> ACK note=init leg=1 src=sip:alice@example.com"
expect log "X> BYE note=init leg=1 src=sip:alice@example.com"
expect log "{$CDR};{$CORE};x_caller=sip:alice@example.com;callee=sip:bob@example.com;x_num=;x_note=init;x_unset=;x_leg_src=sip:alice@example.com;leg_dst=changed;x_leg_src=second;leg_dst="
expect no log "ACC: *"
expect event "E_ACC_CDR * x_leg_src=\"sip:alice@example.com\" leg_dst=\"changed\" *"
expect event "E_ACC_CDR * x_leg_src=\"second\" leg_dst=null *"
expect no event "E_ACC*"
expect row "SELECT x_leg_src, leg_dst, x_note FROM acc ORDER BY leg_dst DESC" "sip:alice@example.com|changed|init\nsecond|NULL|init"
reap
expect live 0
