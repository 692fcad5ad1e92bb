title callbacks of transactions with other parameters: accounting stops with one line, and the server lives
include base.inc
host version 3.6.9
host odd tm_params
route request later {
  do_accounting("log|db|evi", "cdr") -> -1
  $acc_extra(note) = "x"
  check $acc_extra(note) null
  drop_accounting() -> -1
  acc_log_request("no") -> -1
  t_relay()
}
start
expect log "*not among the tested versions*"
recv 1 invite
expect log "*callbacks of tm in this server have other parameters than in the known versions*Nothing more is accounted*"
reply 2 invite 200 totag=bob-1 body
recv 1 ack inside
recv 3 bye inside
reply 2 bye 200
recv 2 message later
reply 1 message 200
recv 3 options later
reap
sleep 300
expect no log "*acc*"
expect no log "ACC: *"
expect no event "E_ACC*"
expect up
stop
