title many calls in many processes; everything is given back, every row is stored
needs speed
include many.inc
start
loop 50
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
reap
end
expect within 20 row "SELECT count(*) FROM acc" "50"
levels
loop 1000
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
reap
end
expect live 0
expect within 20 row "SELECT count(*), count(DISTINCT callid) FROM acc" "1050|1000"
expect count 1050 event "E_ACC_CDR *"
expect events 1050
expect count 1050 log "ACC: call ended: *"
expect stat acc_live_blocks 0
expect stat acc_live_bytes 0
expect within 20 levels
