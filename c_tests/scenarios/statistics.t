title the statistics that the module exports
include many.inc
start
loop 10
recv 1 n_invite
reply 2 n_invite 200 totag=bob-1
recv 4 n_bye inside
reply 3 n_bye 200
expect within 0 stat db_accepted-db_delivered-db_dead-db_pending 0
reap
end
expect live 0
expect stat panics 0
expect stat log_written 10
expect stat evi_raised 10
expect stat db_accepted 10
expect stat db_delivered 10
expect stat db_dead 0
expect stat db_pending 0
expect stat db_oldest_age 0
expect stat db_outages 0
