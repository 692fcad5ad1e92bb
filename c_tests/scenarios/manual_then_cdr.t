title a manual record long before the answer does not move the start of the call
needs speed
include base.inc
route request main {
  do_accounting("log|db", "cdr") -> 1
  acc_log_request("100 seen") -> 1
  t_relay()
}
start
recv 1 invite
expect log "ACC: request accounted: *"
sleep 1500
reply 2 invite 200 totag=bob-1
recv 1 ack inside
recv 3 bye inside
reply 2 bye 200
expect log "ACC: call ended: created={t};call_start_time={t};duration={n:0..1};ms_duration={n:0..900};setuptime={n:1..2};*"
expect no log "ACC: *"
expect row "SELECT ms_duration < 900, setuptime BETWEEN 1 AND 2 FROM acc" "1|1"
