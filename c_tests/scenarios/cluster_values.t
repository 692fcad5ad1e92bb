title a value is told to the cluster with its message, and no older state comes back over it
include base.inc
route request after_match {
  loose_route()
  $acc_extra(note) = "changed"
  $acc_extra(num) = 43
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
dlg_save
dlg_keep invite acc_state
# The dialog module has told the cluster of this request before the values are set.
recv 1 info after_match
dlg_has invite acc_state "changed"
dlg_has invite acc_state "43"
reply 2 info 200
# Another node sends what it had before.
dlg_replay invite acc_state
# It has the dialog's database write the same.
dlg_save
dlg_has invite acc_state "changed"
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};x_caller=sip:alice@example.com;callee=sip:bob@example.com;x_num=43;x_note=changed;x_unset=;{$L}"
expect no log "ACC: *"
