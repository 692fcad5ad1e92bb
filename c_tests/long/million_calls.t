title a million calls; everything is given back, every row is stored
needs speed
include ../scenarios/many.inc
host stderr off
start
loop 1000
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
reap
end
expect within 60 row "SELECT count(*) FROM acc" "1000"
levels
loop 1000000
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
reap
end
expect live 0
expect within 600 row "SELECT count(*), count(DISTINCT callid) FROM acc" "1001000|1000000"
expect events 1001000
expect stat db_dead 0
expect stat journal_lost 0
expect stat acc_live_blocks 0
expect stat acc_live_bytes 0
expect within 60 levels
