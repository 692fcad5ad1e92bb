title one context takes no more than context_max: values are clipped, a leg is refused, each is counted and said with the Call-ID
include base.inc
modparam context_max 16
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = "{a*10000}" -> 1
  $acc_extra(note) = "{b*20000}" -> 1
  # Nothing is left for another one; what is there may change in the room that it has.
  $acc_extra(num) = 42 -> 1
  check $acc_extra(num) null
  acc_new_leg() -> -1
  $acc_extra(caller) = "{c*9000}" -> 1
  check $acc_extra(caller) "{c*9000}"
  $acc_extra(num) = 42 -> 1
  check $acc_extra(num) "42"
  t_relay()
}
start
recv 1 invite
expect stat clipped 3
expect log "the value of \"note\" is clipped: one context may not take more (parameter context_max; Call-ID call-1@test)"
expect log "acc_new_leg(): no room for one more leg: one context may not take more (parameter context_max; Call-ID call-1@test)"
reply 2 invite 200 totag=bob-1
recv 3 bye inside
reply 2 bye 200
expect row "SELECT length(x_caller), length(x_note) BETWEEN 6000 AND 6384, x_num FROM acc" "9000|1|42"
expect stat arena_full 0
expect count 1 event "E_ACC_CDR *"
