title cdr_flag: one record at the end of the call, with values of the BYE; the server ends and starts meanwhile
include base.inc
include flags.inc
host dialog on
host persist on
modparam log_extra_bye "end=$rm"
route request main {
  setflag("ACC")
  setflag("CDR")
  t_relay() -> 1
}
route request within {
  loose_route() -> 1
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1
restart
recv 3 bye within
reply 1 bye 200 totag=bob-1
expect log "ACC: call ended: created={t};call_start_time={t};duration={n:0..9};setuptime={n:0..1};{$CORE};from=sip:alice@example.com;uri=sip:branch0@127.0.0.1;ua=;code=200;note=;end=BYE"
expect no log "ACC: *"
expect row "SELECT method,to_tag,sip_code,from_uri,created IS NOT NULL,ms_duration FROM acc" "INVITE|bob-1|200|sip:alice@example.com|1|0"
reap
expect live 0
