title records tell when a request rang, how often it was tried, and why its call ended
include base.inc
modparam extra_fields "log: attempts; pdd_ms; ring_ms; end_reason"
shell "sqlite3 {dir}/acc.db 'CREATE TABLE acc (method, from_tag, to_tag, callid, sip_code, sip_reason, time, x_caller, callee, x_num, x_note, x_unset, x_leg_src, leg_dst, setuptime, created, duration, ms_duration, attempts INTEGER, pdd_ms INT, ring_ms TEXT, end_reason TEXT)'"
msg bye_why <<END
BYE sip:bob@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-bye
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: "Bob" <sip:bob@example.com>;tag=bob-1
Call-ID: call-1@test
CSeq: 9 BYE
Reason: SIP
Route: <sip:127.0.0.1;lr;ftag=alice-1>
END
route request main {
  do_accounting("log|db", "cdr|missed") -> 1
  t_on_failure("again") -> 1
  t_relay() -> 1
}
route failure again {
  t_relay() -> 1
}
start
recv 1 invite
sleep 100
reply 2 invite 486
expect log "{$MISSED};*;attempts=1;pdd_ms=;ring_ms=;end_reason=;*"
sleep 100
reply 1 invite.1 180 totag=bob-1
sleep 150
reply 2 invite.1 183 totag=bob-1
reply 3 invite.1 200 totag=bob-1 body
recv 2 ack inside
recv 1 bye_why inside
reply 3 bye_why 200
expect log "{$CDR};*;attempts=2;pdd_ms={n:200..3800};ring_ms={n:150..3800};end_reason=SIP;*"
expect row "SELECT attempts, typeof(attempts), pdd_ms >= 200, typeof(pdd_ms), ring_ms >= 150, typeof(ring_ms), end_reason FROM acc" "2|integer|1|integer|1|text|SIP"
reap
expect live 0
