title values of 0, 1, 127, 128, 129, 4096, 32767, 32768 and 65535 bytes
include base.inc
route request main {
  do_accounting("db|evi", "cdr") -> 1
  $acc_extra(caller) = ""
  $acc_extra(callee) = "{a*1}"
  $acc_extra(num) = "{b*127}"
  $acc_extra(note) = "{c*128}"
  $acc_extra(unset) = "{d*129}"
  acc_new_leg()
  $acc_leg(leg_src) = "{e*4096}"
  $acc_leg(leg_dst) = "{f*32767}"
  acc_new_leg()
  $acc_leg(leg_src) = "{g*32768}"
  $acc_leg(leg_dst) = "{h*65535}"
  check $acc_leg(leg_dst) "{h*65535}"
  check $(acc_leg(leg_src)[1]) "{e*4096}"
  check $acc_extra(unset) "{d*129}"
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
recv 3 bye inside
reply 2 bye 200
expect row "SELECT coalesce(length(x_caller),0), length(callee), length(x_num), length(x_note), length(x_unset), coalesce(length(x_leg_src),0), coalesce(length(leg_dst),0) FROM acc ORDER BY 7" "0|1|127|128|129|0|0\n0|1|127|128|129|4096|32767\n0|1|127|128|129|32768|65535"
expect count 3 event "E_ACC_CDR *"
reap
expect live 0
