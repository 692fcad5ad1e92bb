title cancelled, CANCELs reported: their own record, with an empty To tag
modparam report_cancels 1
include cancel487.inc
expect log "{$TRAN};method=CANCEL;from_tag=alice-1;to_tag=;call_id=call-1@test;code=200;reason=OK;{$X0};{$L0}"
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT method, to_tag, sip_code FROM acc ORDER BY 1" "CANCEL||200\nINVITE|bob-1|487"
reap
expect live 0
