title killed once more before orphan_timeout is over: a call that no dialog claimed ends with the first server
include base.inc
host persist off
modparam orphan_timeout 6
modparam extra_fields "log: end_cause"
include up.inc
sleep 2500
kill9
sleep 3000
kill9
kill9
expect within 15 log "ACC: call ended: *;ms_duration={n:1400..4500};*;{$CORE};*;end_cause=orphan;*"
expect no log "ACC: *"
expect row "SELECT method, sip_code, x_note FROM acc" "INVITE|200|init"
expect within 10 stat acc_live_blocks 0
