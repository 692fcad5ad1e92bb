title big INVITEs fill the shared memory: calls that are marked end with their records, and all of it serves others afterwards
needs speed
include many.inc
modparam arena_size 16
route request inside {
  loose_route()
  $acc_extra(note) = "end"
  t_relay()
}
route request flood {
  $acc_extra(caller) = $fu
  $acc_extra(note) = $hdr(X-Big)
  do_accounting("log|db|evi", "cdr")
  t_relay()
}
route request small {
  do_accounting("log|db|evi", "cdr")
  t_relay()
}
msg n_big <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-g-%n
From: <sip:{a*25000}@example.com>;tag=big-%n
To: <sip:bob@example.com>
Call-ID: big-%n@test
X-Big: {x*27000}
CSeq: 1 INVITE
END
msg n_small <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-s-%n
From: <sip:alice@example.com>;tag=small-%n
To: <sip:bob@example.com>
Call-ID: small-%n@test
CSeq: 1 INVITE
END
msg n_late <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-l-%n
From: <sip:alice@example.com>;tag=late-%n
To: <sip:bob@example.com>
Call-ID: late-%n@test
CSeq: 1 INVITE
END
msg n_late_bye <<END
BYE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-lb-%n
From: <sip:alice@example.com>;tag=late-%n
To: <sip:bob@example.com>;tag=late-to
Call-ID: late-%n@test
CSeq: 2 BYE
END
start
# 20 calls are up, 5 ring.
loop 20
recv 1 n_invite as up-%n
reply 2 up-%n 200 totag=bob-1
end
loop 5
recv 1 n_late as late-%n
end
# 400 INVITEs of 52 kB fill what there is; small ones take the rest.
loop 400
recv 1 n_big flood as big-%n
end
loop 3000
recv 3 n_small small as small-%n
end
expect shell "test $(grep -c 'shared memory for calls in progress is full: raise the parameter arena_size (Call-ID ' {dir}/host.log) -ge 1"
# Not one line for each that was refused.
expect shell "test $(grep -c 'shared memory for calls in progress is full' {dir}/host.log) -lt 60"
# Those that ring are answered; all 25 end, with what the BYE sets.
loop 5
reply 2 late-%n 200 totag=late-to
end
loop 20
recv 4 n_bye inside as bye-%n
reply 3 bye-%n 200
end
loop 5
recv 4 n_late_bye inside as late-bye-%n
reply 3 late-bye-%n 200
end
expect within 20 row "SELECT count(*), count(DISTINCT callid), sum(x_note = 'end'), sum(to_tag = 'bob-1'), sum(to_tag = 'late-to') FROM acc" "25|25|25|20|5"
expect count 25 event "E_ACC_CDR *"
# The flood is refused by its callee; then there is room for anything again.
loop 400
reply 2 big-%n 486
end
loop 3000
reply 2 small-%n 486
end
reap
expect live 0
expect stat acc_live_blocks 0
loop 3
recv 1 n_invite as again-%n
reply 2 again-%n 200 totag=bob-1
recv 4 n_bye inside as again-bye-%n
reply 3 again-bye-%n 200
end
loop 100
recv 1 n_big flood as again-big-%n
reply 2 again-big-%n 486
end
reap
expect within 20 row "SELECT count(*), count(DISTINCT callid) FROM acc" "28|25"
expect count 28 event "E_ACC_CDR *"
expect stat acc_live_blocks 0
expect stat journal_lost 0
