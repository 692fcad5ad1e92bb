title accounting asked for in the failure route only: created is the arrival of the INVITE
needs speed
include base.inc
route failure fail {
  do_accounting("log|db|evi", "cdr|missed") -> 1
  t_relay() -> 1
}
route request main {
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
sleep 1500
reply 2 invite 486 totag=bob-0
expect no log "ACC: *"
reply 3 invite.1 200 totag=bob-1
recv 1 ack inside
recv 2 bye inside
reply 1 bye 200
expect log "ACC: call ended: created={t};call_start_time={t};duration={n:0..1};ms_duration={n:0..900};setuptime={n:1..3};{$CORE};{$X0};{$L0}"
expect no log "ACC: *"
expect row "SELECT setuptime BETWEEN 1 AND 3 FROM acc" "1"
reap
expect live 0
