title values of the BYE are in the CDR
include base.inc
route request end {
  loose_route()
  $acc_extra(note) = "bye"
  acc_new_leg()
  $acc_leg(leg_dst) = "end"
  t_relay()
}
include up.inc
recv 3 bye end
reply 2 bye 200
expect log "{$CDR};{$CORE};x_caller=sip:alice@example.com;callee=sip:bob@example.com;x_num=42;x_note=bye;x_unset=;{$L};x_leg_src=;leg_dst=end"
expect no log "ACC: *"
expect row "SELECT x_note, leg_dst FROM acc ORDER BY leg_dst" "bye|end\nbye|sip:bob@example.com"
