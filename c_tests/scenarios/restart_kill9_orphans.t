title calls that no dialog claims after a restart: a record each, and one line with their number
include many.inc
host persist off
modparam orphan_timeout 1
start
loop 5
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
reap
end
kill9
expect within 10 log "*calls that were in progress when the server last stopped came back without a dialog: the CDRs of these 5 end *"
expect within 5 row "SELECT count(*), count(DISTINCT callid) FROM acc" "5|5"
expect no log "*without a dialog*"
