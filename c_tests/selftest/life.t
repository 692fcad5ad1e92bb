title the host itself: load, processes, a call, a restart
host workers 3
modparam number 12
modparam text "hello"
modparam note "a string"
modparam note 5

msg invite <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-1
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: "Bob" <sip:bob@example.com>
Call-ID: call-1@test
CSeq: 1 INVITE
Max-Forwards: 70

v=0
END

msg ack <<END
ACK sip:bob@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-2
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: "Bob" <sip:bob@example.com>;tag=bob-1
Call-ID: call-1@test
CSeq: 1 ACK
END

msg bye <<END
BYE sip:alice@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-3
From: "Bob" <sip:bob@example.com>;tag=bob-1
To: "Alice" <sip:alice@example.com>;tag=alice-1
Call-ID: call-1@test
CSeq: 2 BYE
END

route onreply global {
  xlog "global reply $rs $rr for $rm"
}
route onreply named {
  xlog "named reply $rs totag $tt"
}
route request main {
  check $ft "alice-1"
  check $rm "INVITE"
  check $ru "sip:bob@example.com"
  check $rU "bob"
  check $tt null
  check $cl 5
  check $rs null
  check $hdr(Max-Forwards) "70"
  $box(a) = $fu
  check $box(a) "sip:alice@example.com"
  $box(b) = 42
  check $box(b) "42"
  $box(c) = "{x*200}"
  $box(b) = $null
  check $box(b) null
  $(box(d)[9]) = 1 -> -1
  $var(w) = "bad"
  stub_mark($var(w)) -> -1
  $var(w) = "good"
  $var(n) = 17
  stub_number($var(n)) -> 17
  stub_number(-3) -> -3
  stub_number($var(w)) -> -1
  stub_mark($var(n)) -> 1
  stub_mark("one $rm", "two") -> 1
  stub_event() -> 1
  t_on_reply("named")
  t_relay() -> 1
  stub_put() -> 1
}
route request inside {
  loose_route()
  t_relay()
}

start
expect log "STUB note a string"
expect log "STUB note 5"
expect log "STUB init number 12 text hello"
expect log "STUB extra process 0"
expect count 5 log "STUB child *"
expect log "STUB child -1 process *"
expect log "STUB child -2 process *"
expect log "STUB child 3 process *"
expect stat answer 42

recv 2 invite
expect log "STUB mark <17> - from alice-1 call call-1@test t 0"
expect log "STUB mark <one INVITE> two from alice-1 call call-1@test t 0"
expect log "STUB dialog 0x2 direction 1 msg 1 current"
expect log "STUB context value in-context destroyed"
expect event "E_STUB s=\"x y\" nothing=null n=-3"
expect no event "E_STUB*"
expect live 2

reply 3 invite 180 totag=bob-1
expect log "X> global reply 180 Ringing for INVITE"
expect log "X> named reply 180 totag bob-1"
expect log "STUB tm 0x2 code 180 in {n} ctx in-tran"
expect log "STUB reply 180 totag bob-1"
expect log "STUB tm 0x80 code 180 in {n} ctx in-tran"
reply 1 invite 200 totag=bob-1 body
expect log "STUB dialog 0x8 direction 2 msg 1 current"
recv 1 ack inside
expect log "STUB dialog 0x10 direction 1 msg 1 current"
reap
expect log "STUB tm 0x1000 code 0 in {n} ctx ?"
expect log "STUB param tran released"
expect log "STUB context value in-tran destroyed"
expect live 1

restart
expect log "STUB end"
expect log "STUB dialog 0x2000 direction 0 msg 0*"
expect log "STUB loaded rc 0 len 9"
expect count 2 log "STUB init *"
recv 2 bye inside
expect log "STUB dialog 0x20 direction 2 msg 1 current"
reply 1 bye 200
reap
expect live 0
stop
expect down 0
