title tags added, removed and in another order after a restart
include base.inc
include up.inc
modparam extra_fields unset
modparam leg_fields unset
modparam extra_fields "log: added; note->x_note; num; callee; caller->c"
modparam leg_fields "log: leg_dst; new_one"
modparam extra_fields "db: added; note->x_note"
route request main {
}
restart
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};added=;x_note=init;num=42;callee=sip:bob@example.com;c=sip:alice@example.com;leg_dst=sip:bob@example.com;new_one="
expect no log "ACC: *"
