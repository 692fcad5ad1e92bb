title small changes of a large call write little to the journal, and none is lost in a crash
include base.inc
host persist off
modparam orphan_timeout 1
route request large {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(num) = "none"
  $acc_extra(note) = "$hdr(X-Large)"
  $acc_extra(unset) = "here"
  t_relay()
}
route request update {
  loose_route()
  $acc_extra(num) = "$cs"
  t_relay()
}
route request behind {
  loose_route()
  $acc_extra(unset) = "behind"
  t_relay()
}
msg large <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-large
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: "Bob" <sip:bob@example.com>
Call-ID: call-1@test
CSeq: 1 INVITE
Contact: <sip:alice@127.0.0.1:5070>
X-Large: {x*50000}
END
msg small <<END
INFO sip:bob@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-small-%n
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: "Bob" <sip:bob@example.com>;tag=bob-1
Call-ID: call-1@test
CSeq: 1%n INFO
Route: <sip:127.0.0.1;lr;ftag=alice-1>
END
start
recv 1 large large
reply 2 large 200 totag=bob-1 body
recv 3 ack inside
reap
loop 50
recv 1 small update
reply 2 small 200
reap
recv 2 small update
reply 3 small 200
reap
end
# a call of 50 kB, changed a hundred times
expect shell "test $(cat {dir}/journal/*.seg | wc -c) -lt 400000"
# both sides of what is large
recv 3 info behind
reply 1 info 200
reap
kill9
expect within 10 log "ACC: call ended: *;x_num=150;*;x_unset=behind;*"
expect no log "ACC: *"
expect row "SELECT x_num, length(x_note), x_unset FROM acc" "150|50000|behind"
expect within 10 stat acc_live_blocks 0
