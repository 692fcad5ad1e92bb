title answered call with a CDR, the callee hangs up
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  $acc_extra(caller) = $fu -> 1
  $acc_extra(callee) = $ru -> 1
  $acc_extra(num) = 42 -> 1
  $acc_extra(note) = "init" -> 1
  $acc_leg(leg_src) = $fu -> 1
  $acc_leg(leg_dst) = $ru -> 1
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1 body
recv 2 ack inside
reap
expect no log "ACC: *"
sleep 300
recv 3 bye_bob inside
reply 1 bye_bob 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
expect row "SELECT duration, ms_duration >= 300, setuptime >= 0, abs(strftime('%s',created,'utc')-strftime('%s','now'))<1800, abs(strftime('%s',time,'utc')-strftime('%s','now'))<1800 FROM acc" "{n:1..2}|1|1|1|1"
expect row "SELECT count(*) FROM missed_calls" "0"
reap
expect live 0
