title our own request, accounted in the local route
include base.inc
route local {
  do_accounting("log|db|evi") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(note) = "ours"
}
msg ping <<END
OPTIONS sip:bob@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-ping
From: <sip:proxy@example.com>;tag=px-1
To: <sip:bob@example.com>
Call-ID: ping-1@test
CSeq: 1 OPTIONS
END
start
local 1 ping
reply 2 ping 200 totag=bob-1
expect log "{$TRAN};method=OPTIONS;from_tag=px-1;to_tag=bob-1;call_id=ping-1@test;code=200;reason=OK;x_caller=sip:proxy@example.com;callee=;x_num=;x_note=ours;x_unset=;{$L0}"
expect no log "ACC: *"
expect row "SELECT method, from_tag, to_tag, sip_code FROM acc" "OPTIONS|px-1|bob-1|200"
reap
expect live 0
