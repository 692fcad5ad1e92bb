# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_accctl_global_optspecs
    string join \n quiet no-progress h/help V/version
end

function __fish_accctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_accctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_accctl_using_subcommand
    set -l cmd (__fish_accctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c accctl -n "__fish_accctl_needs_command" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_needs_command" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_needs_command" -s V -l version -d 'Print version'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "status" -d 'Show how much is waiting, dead or damaged'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "dump" -d 'Print every entry of the segments, one per line'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "verify" -d 'Look for damage, duplicates and gaps; exit status 1 for damage, duplicates and unreadable files'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "audit" -d 'Compare what the journals of all nodes have accepted with what SQL, or the files of a stream, hold'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "deliver" -d 'Deliver what a stopped server left: SQL and RADIUS records, log lines; exit status 1 if records remain'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "requeue" -d 'Put dead entries back for delivery'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "prune" -d 'Remove what is old: files of entries that were put back, damaged bytes that were set aside, and rows with a database'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "schema" -d 'Print the SQL for missing tables and columns'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "host" -d 'Say whether the module works with this server, without starting it'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "metrics" -d 'Print what is waiting as metrics for Prometheus'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "find" -d 'Show where the records of a call are: waiting, delivered or given up, and why'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "report" -d 'Show what a span of calls looks like: attempts, ASR, NER, minutes, durations, codes'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "check-config" -d 'Look in a server\'s configuration for what would make records wrong or missing'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "convert" -d 'Print what a configuration with message flags and extra parameters is with do_accounting(), as a unified diff'
complete -c accctl -n "__fish_accctl_needs_command" -f -a "help" -d 'Explain a command, or a parameter, function, variable, event or management command of the module'
complete -c accctl -n "__fish_accctl_using_subcommand status" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand status" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand status" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand status" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand status" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l json -d 'One JSON object a line'
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand dump" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand verify" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand verify" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand verify" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand verify" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand verify" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l file -d 'Look for the records in this file of a stream, .jsonl or .csv, instead of SQL; may be repeated' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l sink -d 'Which stream the files are of' -r -f -a "stream\t''
stream2\t''
stream3\t''
stream4\t''"
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand audit" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l seconds -d 'Stop after this many seconds; allow enough for a large backlog' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l log-socket -d 'The syslog socket, for log lines' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l db-time -d 'The same as --set db_time=...' -r -f -a "local\t''
utc\t''"
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l aaa-url -d 'The RADIUS servers or Diameter peers; the same as --set aaa_url=...' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l aaa-extra -d 'Extra fields with their attributes; the same as --set \'extra_fields=aaa: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l aaa-leg -d 'Leg fields with their attributes; the same as --set \'leg_fields=aaa: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l service-type -d 'The same as --set service_type=N' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l aaa-retry -d 'The same as --set aaa_retry=N' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l diameter-url -d 'The peers of the destination diameter; the same as --set diameter_url=...' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand deliver" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l sink -d 'The destination whose dead letters are put back' -r -f -a "db\t''
aaa\t''
diameter\t''
log\t''
stream\t''
stream2\t''
stream3\t''
stream4\t''"
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand requeue" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l older -d 'Remove what is older than this, in days or hours: 90d, 48h' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l dry-run -d 'Only show what would be removed'
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l only-files -d 'Remove no rows of the tables, even where the configuration has a database'
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand prune" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l dialect -d 'Assume an empty database, without connecting to one' -r -f -a "sqlite\t''
mysql\t''
postgres\t''"
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l for -d 'Whose tables: those of kamailio lack the columns that only do_accounting() fills, unless it has fields for SQL' -r -f -a "opensips\t''
kamailio\t''"
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l apply -d 'Also run the SQL'
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand schema" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand host" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand host" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand host" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l textfile -d 'Write them into this file, for the textfile collector of node_exporter; the name must end in .prom' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand find" -l where -d 'A column or field that has this value: caller=alice; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l since -d 'Not before this time: "2026-11-29", "2026-11-29 12:00", or so long ago: 90m, 24h, 7d' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l until -d 'Before this time' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l journal -d 'The journal_dir of the server; not needed with --config' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand find" -l stream -d 'Files of a stream (JSONL); may be repeated' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand find" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand find" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand find" -l json -d 'One JSON object a line'
complete -c accctl -n "__fish_accctl_using_subcommand find" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand find" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand find" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand report" -l stream -d 'Read files of a stream (JSONL) instead of a database; may be repeated' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand report" -l since -d 'Not before this time: "2026-11-29", "2026-11-29 12:00", or so long ago: 90m, 24h, 7d' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l until -d 'Before this time' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l by -d 'Also for each value of this column or field' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l top -d 'How many values of --by are shown, those with most calls' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l user-codes -d 'Codes of calls that fail by the will of a person, for NER' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l html -d 'Also write it into this file, as one page with plots, without scripts and without anything from the network' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand report" -l url -d 'The database; the same as --set db_url=URL' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l extra -d 'Extra fields with their columns; the same as --set \'extra_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l leg -d 'Leg fields with their columns; the same as --set \'leg_fields=db: ...\'' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l table-acc -d 'The same as --set db_table_acc=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l table-missed -d 'The same as --set db_table_missed_calls=NAME' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l config -d 'Read the parameters from the modparam("acc", ...) lines of this server configuration' -r -F
complete -c accctl -n "__fish_accctl_using_subcommand report" -l set -d 'A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand report" -l json -d 'Print one JSON object'
complete -c accctl -n "__fish_accctl_using_subcommand report" -l csv -d 'Print a line for each value of --by, and one for all, as CSV'
complete -c accctl -n "__fish_accctl_using_subcommand report" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand report" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l host -d 'The server that it is for, where the file does not tell' -r -f -a "opensips\t'OpenSIPS'
kamailio\t'Kamailio'"
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l url -d 'Compare it with the tables of this database (a db_url), too' -r
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -s D -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l stock -d 'Judge it for the server\'s own module acc, not for this one'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l json -d 'Print findings as an array of JSON objects'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l strict -d 'Show notes, too: what may be meant, but often is not'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand check-config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand convert" -l from -d 'What it is written for, where the file does not tell' -r -f -a "opensips-2.1\t'OpenSIPS to 2.1: message flags'
opensips-2.2\t'OpenSIPS 2.2: do_accounting() with extra parameters'
kamailio\t'Kamailio'"
complete -c accctl -n "__fish_accctl_using_subcommand convert" -l module -d 'Where the module is installed' -r
complete -c accctl -n "__fish_accctl_using_subcommand convert" -s D -l define -d 'A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated' -r
complete -c accctl -n "__fish_accctl_using_subcommand convert" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand convert" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand convert" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c accctl -n "__fish_accctl_using_subcommand help" -l quiet -d 'No warnings and no progress bar, only results and errors'
complete -c accctl -n "__fish_accctl_using_subcommand help" -l no-progress -d 'No progress bar; none is shown either if standard error is not a terminal'
complete -c accctl -n "__fish_accctl_using_subcommand help" -s h -l help -d 'Print help'
