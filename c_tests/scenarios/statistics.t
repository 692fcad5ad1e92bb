title the statistics that the module exports
include base.inc
host workers 4
msg n_invite <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-n-%n
From: <sip:alice@example.com>;tag=alice-%n
To: <sip:bob@example.com>
Call-ID: call-%n@test
CSeq: 1 INVITE
END
msg n_bye <<END
BYE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-b-%n
From: <sip:alice@example.com>;tag=alice-%n
To: <sip:bob@example.com>;tag=bob-1
Call-ID: call-%n@test
CSeq: 2 BYE
END
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
start
loop 10
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
expect within 0 stat db_accepted-db_delivered-db_dead-db_pending 0
reap
end
expect live 0
expect stat panics 0
expect stat log_written 10
expect stat evi_raised 10
expect stat db_accepted 10
expect stat db_delivered 10
expect stat db_dead 0
expect stat db_pending 0
expect stat db_oldest_age 0
expect stat db_outages 0
