title records tell their identity, and why and by whom a call ended
include base.inc
modparam extra_fields "log: acc_id->id; end_cause; end_side"
modparam extra_fields "db: end_cause; end_side"
shell "sqlite3 {dir}/acc.db 'CREATE TABLE acc (method, from_tag, to_tag, callid, sip_code, sip_reason, time, x_caller, callee, x_num, x_note, x_unset, x_leg_src, leg_dst, setuptime, created, duration, ms_duration, end_cause, end_side, acc_id)'"
route request main {
  do_accounting("log|db", "cdr") -> 1
  t_relay() -> 1
}
start
recv 1 invite
reply 3 invite 200 totag=bob-1 body
recv 2 ack inside
recv 3 bye_bob inside
reply 1 bye_bob 200
expect log "{$CDR};{$CORE};*;id=*;end_cause=bye;end_side=callee;*"
expect row "SELECT end_cause, end_side, length(acc_id) FROM acc" "bye|callee|32"
reap
expect live 0
