title cancelled with missed and failed, CANCELs not reported
include cancel487.inc
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect no log "ACC: *"
expect log "*report_cancels*"
expect row "SELECT method, sip_code FROM acc UNION ALL SELECT method, sip_code FROM missed_calls" "INVITE|487\nINVITE|487"
reap
expect live 0
