title a flag of the message: the reply comes to another worker, values are each of their own message
include base.inc
include flags.inc
route request main {
  setflag("ACC")
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
expect log "ACC: transaction answered: timestamp={t};{$CORE};from=sip:alice@example.com;uri=sip:branch0@127.0.0.1;ua=;code=200;note="
expect no log "ACC: *"
expect row "SELECT method,to_tag,sip_code,from_uri,uri,code,created FROM acc" "INVITE|bob-1|200|sip:alice@example.com|sip:branch0@127.0.0.1|200|NULL"
reap
expect live 0
