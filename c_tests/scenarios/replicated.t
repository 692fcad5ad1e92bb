title values changed on another node are taken over
include base.inc
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
restart
dlg_replicated invite unrelated "x"
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
