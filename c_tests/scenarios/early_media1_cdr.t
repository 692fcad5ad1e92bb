title early_media and cdr: the call starts at the 200
needs speed
include base.inc
modparam early_media 1
start
recv 1 invite
reply 2 invite 183 totag=bob-1 body
sleep 1500
reply 3 invite 200 totag=bob-1 body
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
expect log "ACC: call ended: created={t};call_start_time={t};duration={n:0..1};ms_duration={n:0..900};setuptime={n:1..2};{$CORE};{$X};{$L}"
expect row "SELECT duration<=1, ms_duration<900, setuptime BETWEEN 1 AND 2 FROM acc WHERE sip_code=200" "1|1|1"
