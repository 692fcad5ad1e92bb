title killed after the BYE, before its reply; the dialog comes back as if nothing had happened
include base.inc
modparam orphan_timeout 1
modparam extra_fields "log: end_cause"
include up.inc
dlg_save
recv 2 bye inside
kill9
expect within 10 log "ACC: call ended: *;{$CORE};*;end_cause=bye;*"
expect no log "ACC: *"
expect row "SELECT method, sip_code, x_note FROM acc" "INVITE|200|init"
