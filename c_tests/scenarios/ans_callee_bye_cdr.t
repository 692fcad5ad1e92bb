title answered call with a CDR, the callee hangs up
include ans_cdr.inc
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
