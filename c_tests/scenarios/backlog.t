title E_ACC_BACKLOG when more records wait than the threshold, and when at most half as many do
include base.inc
modparam db_url "sqlite://{dir}/later/acc.db"
modparam delivery_retry_max 1
modparam backlog_threshold 2
route request main {
  do_accounting("db")
  t_relay()
}
start
loop 3
recv 1 options main
reply 2 options 200
reap
end
expect within 10 event "E_ACC_BACKLOG sink=\"db\" pending=3 oldest_age={n:0..9} state=\"begins\""
shell "mkdir {dir}/later"
expect within 10 event "E_ACC_BACKLOG sink=\"db\" pending=0 oldest_age=0 state=\"over\""
expect count 2 event "E_ACC_BACKLOG *"
