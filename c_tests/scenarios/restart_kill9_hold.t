title with orphan_cdr=hold a call that comes back without a dialog is kept for a person to decide
include base.inc
host persist off
modparam orphan_timeout 1
modparam orphan_cdr "hold"
route request main {
  do_accounting("log|evi", "cdr") -> 1
  do_accounting("db", "cdr|start") -> 1
  t_relay()
}
include up.inc
expect within 5 row "SELECT count(*) FROM acc_calls" "1"
kill9
expect within 10 log "*came back without a dialog: its CDR {*} is not written*"
expect stat orphans_held 1
expect within 5 stat db_dead 1
expect no log "ACC: *"
expect row "SELECT count(*) FROM acc" "0"
expect shell "grep -q 'orphan_cdr=hold.*\"end_cause\":\"orphan\"' {dir}/journal/dead-db.jsonl"
expect within 10 stat acc_live_blocks 0
# held, but not up
expect within 5 row "SELECT count(*) FROM acc_calls" "0"
# that is the end of it
restart
sleep 2500
expect stat orphans_held 0
expect shell "test $(wc -l < {dir}/journal/dead-db.jsonl) = 1"
