title a backend without leg fields writes one record, whatever the legs
include base.inc
modparam leg_fields unset
modparam leg_fields "evi: leg_src; leg_dst"
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
recv 3 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X0}"
expect no log "ACC: *"
expect count 3 event "E_ACC_CDR *"
expect row "SELECT count(*) FROM acc" "1"
