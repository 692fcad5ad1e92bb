title nasty values: separators, quotes, control characters, a negative number
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(note) = "a;b=c\"q\"'s' %s \\ \r\nnl\ttab \xc3\xa9"
  $acc_extra(num) = -7
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
recv 3 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};x_caller=;callee=;x_num=-7;x_note=a;b=c\"q\"'s' %s \\\\ \\\\x0d\\\\x0anl\\\\x09tab \xc3\xa9;x_unset=;{$L0}"
expect no log "ACC: *"
expect row "SELECT x_num, x_note = 'a;b=c\"q\"''s'' %s ' || char(92,32,13,10) || 'nl' || char(9) || 'tab ' || char(233) FROM acc" "-7|1"
