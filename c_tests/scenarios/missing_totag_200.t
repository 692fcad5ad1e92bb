title a 200 without a To tag makes no call: no CDR, no record
include base.inc
start
recv 1 invite
reply 2 invite 200
expect no log "ACC: *"
reap
