title a server killed without saved dialogs: the call still gets its record
include base.inc
host persist off
modparam orphan_timeout 1
modparam extra_fields "log: end_cause"
include up.inc
# nobody says anything any more, and still it is known that the call went on
sleep 3500
kill9
expect within 10 log "ACC: call ended: *;ms_duration={n:2000..9000};*;{$CORE};*;end_cause=orphan;*"
expect no log "ACC: *"
expect row "SELECT method, sip_code, x_note FROM acc" "INVITE|200|init"
# nobody needs it any more
expect within 10 stat acc_live_blocks 0
