title starts that are refused, each with a line that names the reason
include base.inc
route request main {
  do_accounting("nowhere")
}
start fails
expect log "*nowhere*"
route request main {
  do_accounting("log", "cdr|sometimes")
}
start fails
expect log "*sometimes*"
route request main {
  do_accounting("aaa")
}
start fails
expect log "*aaa*"
route request main {
  $acc_extra(undeclared) = 1
}
start fails
expect log "*undeclared*"
route request main {
  $acc_leg(undeclared) = 1
}
start fails
route request main {
  $acc_current_leg = 1
}
start fails
expect log "*read only*"
route request main {
  do_accounting("log")
}
route onreply wrong {
  do_accounting("log")
}
start fails
expect log "*Command <do_accounting> cannot be used in the block"
route onreply wrong {
}
modparam db_url unset
modparam extra_fields unset
modparam leg_fields unset
route request main {
  do_accounting("db")
}
start fails
expect log "*db_url*"
route request main {
  do_accounting("log")
}
modparam journal_dir "/proc/self/no_such"
modparam db_url "sqlite://{dir}/acc.db"
start fails
expect log "*journal_dir*"
