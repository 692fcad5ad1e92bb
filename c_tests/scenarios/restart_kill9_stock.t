title a call of the original module, taken over and changed, then SIGKILL: one CDR, with the change
include base.inc
modparam orphan_timeout 1
route request main {
  create_dialog("")
  t_relay()
}
route request change {
  loose_route()
  $acc_extra(note) = "later"
  t_relay()
}
include up.inc
# what the original leaves in a dialog: log, db and events on, with CDR; 2023-11-14 22:13:20, answered 3 s later
dlg_set invite accX_flags "\x03\x00\x03\x03\x00\x00\x00\x00"
dlg_set invite accX_created "\x00\xf1\x53\x65\x00\x00\x00\x00"
dlg_set invite accX_core "\x06\x00INVITE\x07\x00alice-1\x05\x00bob-1\x0b\x00call-1@test\x03\x00200\x02\x00OK\x10\x00\x03\xf1\x53\x65\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
restart
recv 1 info change
reply 2 info 200
reap
dlg_save
kill9
# longer than orphan_timeout: nobody takes the call for one without dialog
sleep 2500
recv 2 bye inside
reply 1 bye 200
expect log "ACC: call ended: created=1700000000;call_start_time=1700000003;duration={n};ms_duration={n};setuptime=3;{$CORE};x_caller=;callee=;x_num=;x_note=later;x_unset="
expect no log "ACC: *"
# more milliseconds than an event can tell
expect event "E_ACC_CDR method=\"INVITE\" * duration={n} ms_duration=2147483647 setuptime=3 created=1700000000"
expect stat clipped 1
expect row "SELECT count(*), sip_code, x_note FROM acc" "1|200|later"
reap
expect live 0
