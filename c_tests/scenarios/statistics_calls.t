title calls are counted, each once: by the script and by flags, busy twice, two answers, and the end
include many.inc
modparam log_flag "ACC"
modparam log_missed_flag "MISSED"
modparam failed_transaction_flag "FAILED"
modparam log_extra "code=$T_reply_code"
host dialog on
route failure again {
  do_accounting("db", "missed") -> 1
  setflag("MISSED")
  append_branch()
  t_relay() -> 1
}
route request serial {
  do_accounting("db", "cdr|missed|failed") -> 1
  setflag("ACC")
  setflag("MISSED")
  t_on_failure("again")
  t_relay() -> 1
}
route request flags {
  setflag("ACC")
  setflag("MISSED")
  setflag("FAILED")
  append_branch()
  t_relay() -> 1
}
start
# Neither script nor flags: not counted.
recv 1 message {
  t_relay() -> 1
}
reply 2 message 200
expect stat calls_answered 0
# By both: missed twice, then answered.
recv 1 n_invite serial as one
reply 2 one.0 486 totag=bob-0
expect stat calls_missed 1
expect stat calls_failed_4xx 0
reply 3 one.1 404 totag=bob-2
expect stat calls_missed 1
reply 4 one.2 200 totag=bob-1
expect stat calls_answered 1
expect stat calls_open 1
expect stat calls_ended 0
recv 2 n_bye inside
reply 1 n_bye 200
expect stat calls_open 0
expect stat calls_ended 1
reap
expect stat calls_answered 1
expect stat calls_missed 1
expect stat calls_failed_4xx 0
# By flags alone: two answers of one call.
recv 1 invite flags
reply 2 invite.0 200 totag=bob-1
reply 3 invite.1 200 totag=bob-2
expect stat calls_answered 2
reap
expect stat calls_answered 2
expect stat calls_ended 1
expect stat calls_failed_user 0
expect live 0
