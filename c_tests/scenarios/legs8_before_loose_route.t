title values and eight legs set on the BYE before the dialog is matched are merged into the call
include base.inc
route request end {
  $acc_extra(note) = "late"
  acc_new_leg() -> 1
  $acc_leg(leg_dst) = "LEG1"
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  acc_new_leg() -> 1
  $acc_leg(leg_dst) = "LEG7"
  loose_route()
  check $acc_extra(note) "late"
  check $acc_extra(caller) "sip:alice@example.com"
  check $(acc_leg(leg_dst)[7]) "LEG7"
  t_relay()
}
include up.inc
recv 3 bye end
reply 1 bye 200
expect log "{$CDR};{$CORE};*x_note=late;x_unset=;{$L};x_leg_src=;leg_dst=LEG1;*leg_dst=LEG7"
expect no log "ACC: *"
expect row "SELECT count(*), count(leg_dst), max(leg_dst) FROM acc" "8|3|sip:bob@example.com"
reap
expect live 0
