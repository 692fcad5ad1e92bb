title a call that its dialog claimed after a crash, and no dialog after the next ones, ends with the server that it was up in
include base.inc
modparam orphan_timeout 6
modparam extra_fields "log: end_cause"
include up.inc
dlg_save
sleep 1500
kill9
sleep 3000
host persist off
kill9
sleep 3000
kill9
expect within 15 log "ACC: call ended: *;ms_duration={n:3500..7000};*;{$CORE};*;end_cause=orphan;*"
expect no log "ACC: *"
expect row "SELECT method, sip_code, x_note FROM acc" "INVITE|200|init"
expect within 10 stat acc_live_blocks 0
