title the wall clock is stepped during calls: durations and setup times stay those of the calls
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  t_relay()
}
start
recv 1 invite
sleep 1100
clock -7200
reply 2 invite 200 totag=bob-1 body
sleep 600
clock 90000
recv 3 ack inside
sleep 600
recv 2 bye inside
reply 3 bye 200
# each instant is what the clock showed then
expect log "ACC: call ended: created={t};call_start_time={n};duration={n:2..4};ms_duration={n:1200..3800};setuptime={n:1..3};{$CORE};{$X0};{$L0}"
expect event "E_ACC_CDR method=\"INVITE\" * time={n} {$EX0} {$EL0} duration={n:2..4} ms_duration={n:1200..3800} setuptime={n:1..3} created={t}"
expect row "SELECT duration BETWEEN 2 AND 4, ms_duration BETWEEN 1200 AND 3800, setuptime BETWEEN 1 AND 3, strftime('%s', time) - strftime('%s', created) BETWEEN -7199 AND -7197 FROM acc" "1|1|1|1"
expect no log "ACC: *"
reap
expect live 0
