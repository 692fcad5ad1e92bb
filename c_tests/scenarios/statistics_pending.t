title records that wait are counted as pending, also by a server that finds them at its start
include base.inc
modparam db_url "sqlite://{dir}/later/acc.db"
modparam delivery_retry_max 1
route request main {
  do_accounting("db", "cdr") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1
recv 3 bye inside
reply 1 bye 200
expect stat db_outages 1
expect stat db_pending 1
expect within 0 stat db_accepted-db_delivered-db_dead-db_pending 0
expect within 10 stat db_oldest_age 1
restart
expect stat db_accepted 1
expect stat db_pending 1
shell "mkdir {dir}/later"
expect within 10 stat db_pending 0
expect stat db_delivered 1
expect stat db_accepted 1
expect stat db_oldest_age 0
expect shell "test $(sqlite3 {dir}/later/acc.db 'select count(*) from acc') = 1"
