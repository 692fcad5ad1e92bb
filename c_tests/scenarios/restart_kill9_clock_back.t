title the wall clock is set back during a call, the server is killed twice: the values set last are kept
include base.inc
route request update {
  loose_route()
  $acc_extra(note) = "first"
  t_relay()
}
route request again {
  loose_route()
  $acc_extra(note) = "second"
  t_relay()
}
start
clock 7200
recv 1 invite
reply 2 invite 200 totag=bob-1 body
clock -7200
recv 3 ack inside
recv 3 info update
reply 2 info 200
reap
dlg_save
kill9
recv 1 info again
reply 2 info 200
reap
dlg_save
kill9
recv 2 bye inside
reply 1 bye 200
expect log "ACC: call ended: *;x_note=second;*"
expect no log "ACC: *"
expect row "SELECT x_note FROM acc" "second"
reap
expect live 0
