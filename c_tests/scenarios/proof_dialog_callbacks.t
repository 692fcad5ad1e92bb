title callbacks of dialogs with other parameters: accounting stops with one line, and the server lives
include base.inc
host version 3.4.19
host odd dialog_params
route request later {
  do_accounting("log|db|evi", "cdr") -> -1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 1 ack inside
recv 3 bye inside
expect log "*callbacks of dialogs in this server have other parameters than in the known versions*Nothing more is accounted*"
reply 2 bye 200
recv 2 message later
reply 1 message 200
reap
sleep 300
expect no log "*callbacks of dialogs*"
expect no log "ACC: *"
expect no event "E_ACC*"
expect up
stop
