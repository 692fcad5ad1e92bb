title drop after do, then do again; drop without do fails; unknown tokens
include base.inc
route request main {
  drop_accounting() -> -1
  do_accounting("log|db|evi", "cdr") -> 1
  drop_accounting() -> 1
  do_accounting("log") -> 1
  $var(t) = "nowhere"
  drop_accounting($var(t)) -> -1
  do_accounting($var(t)) -> -1
  $var(t) = " LOG | Evi "
  $var(f) = "Failed"
  do_accounting($var(t), $var(f)) -> 1
  do_accounting("$var(t)", "nonsense$rm") -> -1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "ACC: transaction answered: *;code=486;*"
expect no log "ACC: *"
expect event "E_ACC_EVENT *"
expect no event "E_ACC*"
