title values set after a restart are kept over the next one
include base.inc
route request update {
  loose_route()
  $acc_extra(note) = "$rm"
  acc_new_leg() -> 1
  $acc_leg(leg_dst) = "$rm"
  t_relay()
}
include up.inc
restart
recv 3 info update
reply 2 info 200
reap
restart
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};x_caller=sip:alice@example.com;callee=sip:bob@example.com;x_num=42;x_note=INFO;x_unset=;{$L};x_leg_src=;leg_dst=INFO"
expect no log "ACC: *"
expect row "SELECT x_note, leg_dst FROM acc ORDER BY leg_dst" "INFO|INFO\nINFO|sip:bob@example.com"
reap
expect live 0
