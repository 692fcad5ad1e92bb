title values changed on another node are taken over
include base.inc
include up.inc
restart
dlg_replicated invite unrelated "x"
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
