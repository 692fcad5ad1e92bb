//! The declaration: every destination, parameter, function, variable, event and management command of the
//! module, once. The host families export from these tables, [`crate::config`] reads its defaults here, and
//! the tests compare the documents with them.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::ops::RangeInclusive;

/// Every destination, one row each: its name in Rust; its number, which is written to disk and is never given to another
/// destination; its name in scripts, counters and files; what its fields may be called; who writes its records; and, for
/// those that the delivery process serves, the folder in `src/backend` and the parameter that turns it on. A parameter
/// that may be given several times has a further sink for each line after the first, with a number of its own, from the
/// same range, and a name of its own. Everything that exists once per destination is generated from this
/// table: the macro `$then` gets all rows.
macro_rules! destinations {
    ($then:ident) => {
        $then! {
            /// Rows in a SQL table.
            Db = 2, "db", names Words, by Delivery, sink sql "db_url";
            /// RADIUS Accounting-Requests (RFC 2866).
            Aaa = 1, "aaa", names Attributes, by Delivery, sink radius "aaa_url";
            /// Accounting-Requests to Diameter peers (RFC 6733).
            Diameter = 6, "diameter", names Attributes, by Delivery, sink diameter "diameter_url";
            /// Lines in the server's log; the delivery process sends those that syslog did not accept at once.
            Log = 0, "log", names Text, by Worker, sink log "log_facility";
            /// Events of the server's event interface.
            Evi = 3, "evi", names Text, by Worker;
            /// JSON objects in files, and for brokers and web servers.
            Stream = 4, "stream", names Text, by Delivery, sink stream "stream_url" then Stream2 = 7 "stream2", Stream3 = 8 "stream3", Stream4 = 9 "stream4";
            /// JSON objects for syslog and queues.
            Json = 5, "json", names Words, by Worker;
        }
    };
}
pub(crate) use destinations;

/// Numbers of destinations and sinks are less than this.
pub const DESTINATIONS_MAX: usize = 16;

/// Who writes the records of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The process that made them, at once.
    Worker,
    /// The delivery process, from the journal.
    Delivery,
}

/// What the names of fields may be in the records of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Any printable characters.
    Text,
    /// Letters, digits, `_`, `-` and `.`.
    Words,
    /// Words, or `NUMBER@VENDOR` of an attribute.
    Attributes,
}

macro_rules! backends {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, names $names:ident, by $by:ident
       $(, sink $folder:ident $parameter:literal $(then $($further:ident = $its_number:literal $its_name:literal),+)?)?;)+) => {
        /// What a call can be accounted to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Backend { $($(#[doc = $doc])+ $id = $number,)+ }

        impl Backend {
            /// Every backend, in the order of the table.
            pub const ALL: [Backend; [$($number),+].len()] = [$(Backend::$id),+];

            /// The name used in scripts and parameters.
            pub const fn name(self) -> &'static str {
                match self { $(Backend::$id => $name),+ }
            }

            /// What names its fields may have.
            pub const fn names_are(self) -> Names {
                match self { $(Backend::$id => Names::$names),+ }
            }

            /// Who writes its records.
            pub const fn by(self) -> By {
                match self { $(Backend::$id => By::$by),+ }
            }
        }
    };
}
destinations!(backends);

macro_rules! sinks {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, names $names:ident, by $by:ident
       $(, sink $folder:ident $parameter:literal $(then $($further:ident = $its_number:literal $its_name:literal),+)?)?;)+) => {
        /// What the delivery process serves, each with its own cursor. The first sink of a backend has the number of that backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum SinkId { $($(
            #[doc = concat!("The sink of `", $parameter, "`.")]
            $id = $number,
            $($(
                #[doc = concat!("The sink of a further line of `", $parameter, "`.")]
                $further = $its_number,
            )+)?
        )?)+ }

        /// Every sink, its backend, the parameter that turns it on, and its name.
        const SINKS: &[(SinkId, Backend, &str, &str)] = &[$($(
            (SinkId::$id, Backend::$id, $parameter, $name),
            $($((SinkId::$further, Backend::$id, $parameter, $its_name),)+)?
        )?)+];
    };
}
destinations!(sinks);

/// In [`NUMBERED`]: there is no destination, or no sink, with this number.
const NONE: u8 = u8::MAX;

/// Positions of backends and sinks in their tables, by number.
const NUMBERED: [(u8, u8); DESTINATIONS_MAX] = {
    let mut places = [(NONE, NONE); DESTINATIONS_MAX];
    let mut i = 0;
    while i < Backend::ALL.len() {
        let place = &mut places[Backend::ALL[i] as usize];
        assert!(place.0 == NONE, "two destinations have one number");
        place.0 = i as u8;
        i += 1;
    }
    i = 0;
    while i < SINKS.len() {
        let place = &mut places[SINKS[i].0 as usize];
        assert!(place.1 == NONE, "two sinks have one number");
        assert!(place.0 == NONE || place.0 as usize == SINKS[i].1.index_in_all(), "a sink has the number of another destination");
        place.1 = i as u8;
        i += 1;
    }
    places
};

impl Backend {
    /// Their number.
    pub const COUNT: usize = Backend::ALL.len();

    /// Its place in [`Backend::ALL`].
    pub const fn index(self) -> usize {
        NUMBERED[self as usize].0 as usize
    }

    /// [`Backend::index`] without the table, which is made with it.
    const fn index_in_all(self) -> usize {
        let mut i = 0;
        while Backend::ALL[i] as u8 != self as u8 {
            i += 1;
        }
        i
    }

    /// The backend whose number is `n`.
    pub fn from_number(n: u8) -> Option<Backend> {
        Backend::ALL.get(usize::from(NUMBERED.get(usize::from(n))?.0)).copied()
    }

    /// The names of all, for a message: "a, b or c".
    pub fn names() -> String {
        let names = Backend::ALL.map(Backend::name);
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("{} or {last}", others.join(", "))
    }
}

impl SinkId {
    /// Their number.
    pub const COUNT: usize = SINKS.len();

    /// Every sink, in the order of the table.
    pub const ALL: [SinkId; SinkId::COUNT] = {
        let mut all = [SINKS[0].0; SinkId::COUNT];
        let mut i = 0;
        while i < SinkId::COUNT {
            all[i] = SINKS[i].0;
            i += 1;
        }
        all
    };

    /// Its place in [`SinkId::ALL`].
    pub const fn index(self) -> usize {
        NUMBERED[self as usize].1 as usize
    }

    /// Name in counters, files and messages.
    pub const fn name(self) -> &'static str {
        SINKS[self.index()].3
    }

    /// The parameter that turns it on.
    pub const fn parameter(self) -> &'static str {
        SINKS[self.index()].2
    }

    /// The backend whose records or lines it gets.
    pub const fn backend(self) -> Backend {
        SINKS[self.index()].1
    }

    /// The sink whose number is `n`.
    pub fn from_number(n: u8) -> Option<SinkId> {
        SinkId::ALL.get(usize::from(NUMBERED.get(usize::from(n))?.1)).copied()
    }

    /// The first sink of a backend's records; `None` when workers write them themselves.
    pub fn of(backend: Backend) -> Option<SinkId> {
        if backend.by() == By::Delivery { SinkId::from_number(backend as u8) } else { None }
    }

    /// All sinks of a backend, in their order.
    pub fn all_of(backend: Backend) -> impl Iterator<Item = SinkId> + Clone {
        SinkId::ALL.into_iter().filter(move |id| id.backend() == backend)
    }
}

/// Type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// A number, from the first to the second.
    Int(i32, i32),
    /// A string.
    Str,
    /// A message flag: its number, -1 for none, or its name.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A string, or a number from the first to the second, which means the same as its digits in a string.
    Either(i32, i32),
}

/// Which servers have a parameter. The other one refuses it, and says what to do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Both.
    Both,
    /// OpenSIPS only; what to do in Kamailio instead.
    OpenSips(&'static str),
    /// Kamailio only; what to do in OpenSIPS instead.
    Kamailio(&'static str),
}

/// A module parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Name in `modparam("acc", name, value)`.
    pub name: &'static str,
    /// Type of the value.
    pub kind: ParamType,
    /// Default as the documentation shows it; if there is a default value, it is the first word.
    pub default: &'static str,
    /// How its value is written, in Markdown, if type and range do not say it.
    pub syntax: Option<&'static str>,
    /// A value, without quotes.
    pub example: &'static str,
    /// First version that has it.
    pub since: &'static str,
    /// Servers that have it.
    pub hosts: Hosts,
    /// A further line adds to the earlier ones; otherwise it replaces them.
    pub adds: bool,
    /// A further line is another value, independent of the earlier ones.
    pub listed: bool,
}

const fn param(name: &'static str, default: &'static str, kind: ParamType, example: &'static str) -> Param {
    Param { name, kind, default, syntax: None, example, since: "0.1.0", hosts: Hosts::Both, adds: false, listed: false }
}

const fn int(name: &'static str, default: &'static str, range: RangeInclusive<i32>, example: &'static str) -> Param {
    param(name, default, ParamType::Int(*range.start(), *range.end()), example)
}

const fn text(name: &'static str, default: &'static str, example: &'static str) -> Param {
    param(name, default, ParamType::Str, example)
}

const fn word(name: &'static str, default: &'static str, words: &'static [&'static str], example: &'static str) -> Param {
    param(name, default, ParamType::Word(words), example)
}

const fn either(name: &'static str, default: &'static str, range: RangeInclusive<i32>, example: &'static str) -> Param {
    param(name, default, ParamType::Either(*range.start(), *range.end()), example)
}

const fn flag(name: &'static str, example: &'static str) -> Param {
    param(name, "-1 (not used)", ParamType::Flag, example).syntax("the name of a flag (OpenSIPS only), or its number: 0 to 31, -1 for none")
}

impl Param {
    const fn syntax(self, syntax: &'static str) -> Param {
        Param { syntax: Some(syntax), ..self }
    }

    const fn on(self, hosts: Hosts) -> Param {
        Param { hosts, ..self }
    }

    const fn adding(self) -> Param {
        Param { adds: true, ..self }
    }

    const fn listed(self) -> Param {
        Param { listed: true, ..self }
    }

    /// A line of a configuration that sets it.
    pub fn example_line(&self) -> String {
        let is_text = matches!(self.kind, ParamType::Str | ParamType::Word(_)) || self.example.parse::<i32>().is_err();
        let quote = if is_text { "\"" } else { "" };
        format!("modparam(\"acc\", \"{}\", {quote}{}{quote})", self.name, self.example)
    }
}

/// Names of method, From tag, To tag, Call-ID, code and reason, in that order: SQL columns without a
/// line, and parameters of events.
pub const CORE_COLUMNS: [&str; 6] = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason"];

/// Maximum number of records of one sink in memory at a time.
const BATCH_MAX: i32 = 5000;
/// Maximum size in MiB. A TiB is more than anybody keeps in records.
const MIB_MAX: i32 = 1 << 20;

/// Every parameter, with its default, what it takes, and an example. What a new one needs is in CONTRIBUTING.md.
pub const PARAMS: &[Param] = &[
    int("early_media", "0", 0..=1, "1"),
    int("report_cancels", "0", 0..=1, "1"),
    int("detect_direction", "0", 0..=1, "1"),
    text("extra_fields", "none", "log: caller->caller_uri; callee; ua->user_agent").syntax(OF_BACKEND).adding(),
    text("leg_fields", "none", "log: leg_from; leg_to").syntax(OF_BACKEND).adding(),
    int("log_level", "2 (L_NOTICE)", -3..=4, "1"),
    text("log_facility", "LOG_DAEMON", "LOG_LOCAL5").syntax(FACILITY),
    word("log_format", "text", &["text", "json"], "json"),
    text("aaa_url", "none (RADIUS off)", "radius:/etc/radcli/radiusclient.conf").syntax("`radius:FILE` or `diameter:FILE[;extra-avps-file:FILE]`"),
    either("aaa_retry", "forever", 1..=i32::MAX, "20").syntax("`forever`, or a number from 1 up"),
    int("service_type", "-1 (Sip-Session of the dictionary, else 15)", -1..=i32::MAX, "15"),
    text("stream_url", "none (streams off)", "file:///var/spool/acc/cdr-%Y%m%d-%H.jsonl?max_size=100M").syntax(STREAM).listed(),
    text("stream_node", "the name of the machine", "proxy1.example.org"),
    text("diameter_url", "none", "/etc/opensips/diameter.conf").syntax("`FILE[;extra-avps-file:FILE]`"),
    text("diameter_client_host", "none", "billing.example.org").syntax("a host name"),
    int("diameter_client_port", "3868", 1..=65_535, "3868"),
    text("diameter_realm", "none", "billing.example.org").syntax("a realm"),
    word("diameter_records", "event", &["event", "session"], "session"),
    word("diameter_service", "none", &["none", "rf"], "rf"),
    int("diameter_mandatory", "0", 0..=1, "1"),
    int("diameter_timeout", "10", 1..=3600, "5").syntax("seconds"),
    text("db_url", "the host's default database URL, else none (SQL off)", "sqlite:///var/lib/opensips-acc/acc.sqlite").syntax("a URL"),
    text("db_table_acc", "acc", "cdrs").syntax(TABLE),
    text("db_table_missed_calls", "missed_calls", "missed").syntax(TABLE),
    text("db_table_avp", "none", "$avp(table)").syntax("`$avp(name)`").on(TABLE_BY_AVP),
    text("db_table_calls", "acc_calls", "calls_up").syntax(TABLE),
    text("acc_method_column", CORE_COLUMNS[0], "sip_method").syntax(COLUMN),
    text("acc_from_tag_column", CORE_COLUMNS[1], "ftag").syntax(COLUMN),
    text("acc_to_tag_column", CORE_COLUMNS[2], "ttag").syntax(COLUMN),
    text("acc_callid_column", CORE_COLUMNS[3], "call_id").syntax(COLUMN),
    text("acc_sip_code_column", CORE_COLUMNS[4], "code").syntax(COLUMN),
    text("acc_sip_reason_column", CORE_COLUMNS[5], "reason").syntax(COLUMN),
    text("acc_time_column", "time", "at").syntax(COLUMN),
    word("db_time", "local", &["local", "utc"], "utc"),
    int("db_time_digits", "0", 0..=6, "3"),
    text("journal_dir", "/var/lib/opensips-acc", "/var/spool/acc").syntax("a directory; not a symbolic link"),
    word("journal_sync", "batch", &["os", "batch", "always"], "always"),
    int("journal_max_size", "0 (as much as the disk holds)", 0..=MIB_MAX, "4096").syntax("MiB; 0 means no limit"),
    // Enough for cursors, dead letters and the ends of calls, and for a log on the same disk to tell what is wrong.
    int("journal_min_free", "16", 0..=MIB_MAX, "500").syntax("MiB; 0 turns the check off"),
    word("journal_full", "drop-new", &["drop-new", "drop-oldest", "refuse"], "refuse"),
    // At most a year.
    int("journal_keep", "0 (not at all)", 0..=8784, "48").syntax("hours; 0 keeps nothing"),
    word("drop_accounting_mode", "documented", &["documented", "stock"], "stock"),
    int("backlog_threshold", "0 (off)", 0..=i32::MAX, "10000").syntax("records; 0 means never"),
    int("delivery_batch", "500", 1..=BATCH_MAX, "2000"),
    int("delivery_retry_max", "30", 1..=3600, "5"),
    int("delivery_give_up", "32", 0..=1_000_000, "5"),
    int("orphan_timeout", "20", 1..=86_400, "60"),
    word("orphan_cdr", "write", &["write", "hold"], "hold"),
    int("interim_interval", "0 (none)", 0..=86_400, "900").syntax("0, or 60 to 86400"),
    int("cluster_id", "0 (that of the dialogs)", -1..=i32::MAX, "-1")
        .on(Hosts::OpenSips("Kamailio has no module clusterer: leave the line out (see docs/KAMAILIO.md)")),
    int("arena_size", "1024", 16..=65_536, "256"),
    // KiB. Four times the longest message that both servers take by default (64 KiB): scripts keep headers whole, and again in parts.
    int("context_max", "256", 16..=16_384, "512"),
    flag("log_flag", "LOG_ACC"),
    flag("log_missed_flag", "LOG_MISSED"),
    flag("db_flag", "DB_ACC"),
    flag("db_missed_flag", "DB_MISSED"),
    flag("aaa_flag", "AAA_ACC"),
    flag("aaa_missed_flag", "AAA_MISSED"),
    flag("evi_flag", "EVI_ACC"),
    flag("evi_missed_flag", "EVI_MISSED"),
    flag("diameter_flag", "DIAMETER_ACC"),
    flag("diameter_missed_flag", "DIAMETER_MISSED"),
    flag("stream_flag", "STREAM_ACC"),
    flag("stream_missed_flag", "STREAM_MISSED"),
    flag("failed_transaction_flag", "FAILED"),
    text("failed_filter", "none", "404,487").syntax("codes joined by commas"),
    int("report_ack", "0", 0..=1, "1"),
    flag("acc_prepare_flag", "PREPARE"),
    int("acc_prepare_always", "0", 0..=1, "1"),
    flag("cdr_flag", "CDR").on(BY_DIALOG),
    text("log_extra", "none", "caller=$fu; agent=$hdr(User-Agent)/reply").syntax(EXTRAS),
    text("db_extra", "none", "caller_uri=$fu; callee_uri=$ru").syntax(EXTRAS),
    text("aaa_extra", "none", "Calling-Station-Id=$fU").syntax(EXTRAS),
    text("evi_extra", "none", "caller=$fu").syntax(EXTRAS),
    text("diameter_extra", "none", "7846=$fU").syntax(EXTRAS),
    text("stream_extra", "none", "caller=$fU").syntax(EXTRAS),
    text("log_extra_bye", "none", "reason=$hdr(Reason)").syntax(EXTRAS).on(OF_BYE),
    text("db_extra_bye", "none", "end_reason=$hdr(Reason)").syntax(EXTRAS).on(OF_BYE),
    text("aaa_extra_bye", "none", "User-Name=$avp(payer)").syntax(EXTRAS).on(OF_BYE),
    text("evi_extra_bye", "none", "reason=$hdr(Reason)").syntax(EXTRAS).on(OF_BYE),
    text("multi_leg_info", "none", "leg_src=$avp(src); leg_dst=$avp(dst)").syntax(LEGS),
    text("multi_leg_bye_info", "none", "leg_end=$avp(end)").syntax(LEGS).on(OF_BYE),
    // Of Kamailio's own modules acc and acc_radius; OpenSIPS never had these.
    int("reason_from_hf", "0", 0..=1, "1").on(AS_EXTRA),
    int("acc_extra_nullable", "0", 0..=1, "1").on(NULLS),
    int("clone_msg", "1", 0..=1, "1").on(NEEDLESS),
    int("acc_extra_size", "64", 0..=i32::MAX, "128").on(NEEDLESS),
    int("cdr_extra_size", "64", 0..=i32::MAX, "128").on(NEEDLESS),
    int("time_mode", "0", 0..=4, "2").on(AS_EXTRA),
    text("time_attr", "time_attr", "stamp").on(AS_EXTRA),
    text("time_exten", "time_exten", "usec").on(AS_EXTRA),
    text("time_format", TIME_FORMAT, "%d.%m.%Y").on(AS_EXTRA),
    int("db_insert_mode", "0", 0..=2, "1").on(NEEDLESS),
    int("db_version_check", "1", 0..=1, "0").on(NEEDLESS),
    int("cdr_enable", "0", 0..=1, "1").on(BY_CDR_FLAG),
    int("cdr_log_enable", "1", 0..=1, "0").on(BY_CDR_FLAG),
    text("cdrs_table", "none", "acc_cdrs").on(BY_CDR_FLAG),
    text("cdr_extra", "none", "caller=$dlg_var(caller); who=$fU").syntax(EXTRAS).on(BY_CDR_FLAG),
    int("cdr_extra_nullable", "0", 0..=1, "1").on(NULLS),
    int("cdr_start_on_confirmed", "0", 0..=1, "1").on(BY_CDR_FLAG),
    text("cdr_facility", "LOG_DAEMON", "LOG_LOCAL3").syntax(FACILITY).on(BY_CDR_FLAG),
    text("cdr_start_id", "start_time", "start").on(BY_CDR_FLAG),
    text("cdr_end_id", "end_time", "end").on(BY_CDR_FLAG),
    text("cdr_duration_id", "duration", "seconds").on(BY_CDR_FLAG),
    int("cdr_duration_mode", "1", 0..=2, "2").on(BY_CDR_FLAG),
    int("cdr_expired_dlg_enable", "0", 0..=1, "1").on(BY_CDR_FLAG),
    int("cdr_on_failed", "1", 0..=1, "0").on(BY_CDR_FLAG),
    text("cdr_skip", "none", "nocdr").on(BY_CDR_FLAG),
    text("radius_config", "none", "/etc/radcli/radiusclient.conf"),
    flag("radius_flag", "5"),
    flag("radius_missed_flag", "6"),
    text("radius_extra", "none", "Calling-Station-Id=$fU").syntax(EXTRAS),
    int("rad_time_mode", "0", 0..=1, "0"),
    // Of Kamailio's acc_json.
    flag("json_flag", "7").on(JSON),
    flag("json_missed_flag", "8").on(JSON),
    text("json_extra", "none", "caller=$fU").syntax(EXTRAS).on(JSON),
    text("json_pre_encoded_prefix", "none", "j_").on(JSON),
    int("json_time_mode", "0", 0..=4, "2").on(JSON),
    text("json_time_format", TIME_FORMAT, "%H:%M:%S").on(JSON),
    int("json_log_level", "1", 0..=7, "5").on(JSON),
    text("json_log_facility", "LOG_DAEMON", "LOG_LOCAL6").syntax(FACILITY).on(JSON),
    text("json_output_mqueue", "none", "accq").on(JSON),
    int("json_output_syslog", "-1", -1..=1, "0").on(JSON),
    int("json_cdr_enable", "0", 0..=1, "1").on(JSON),
    text("json_cdr_extra", "none", "caller=$dlg_var(caller)").syntax(EXTRAS).on(JSON),
    text("json_cdr_pre_encoded_prefix", "none", "j_").on(JSON),
    int("json_cdr_expired_dlg_enable", "0", 0..=1, "1").on(JSON),
    int("json_cdr_log_level", "1", 0..=7, "5").on(JSON),
    text("json_cdr_log_facility", "LOG_DAEMON", "LOG_LOCAL6").syntax(FACILITY).on(JSON),
    text("json_cdr_output_mqueue", "none", "cdrq").on(JSON),
    int("json_cdr_output_syslog", "-1", -1..=1, "0").on(JSON),
    text("json_cdr_skip", "none", "nojson").on(JSON),
];

/// How the values of several parameters are written.
const OF_BACKEND: &str = "`BACKEND: TAG->NAME; TAG; ...` with BACKEND one of `log`, `db`, `aaa`, `evi`, `diameter`, `stream`";
const EXTRAS: &str = "`name=$variable` joined by `;`, with `/reply` after variables of the reply";
const LEGS: &str = "`name=$avp(name)` joined by `;`";
const TABLE: &str = "letters, digits and `_`, not beginning with a digit, at most 63; \
     except in SQLite, the name of a database or schema and a dot may precede it (`billing.acc`); \
     in Kamailio the names for records and missed calls may contain variables";
const COLUMN: &str = "a column name";
const FACILITY: &str = "`LOG_AUTH`, `LOG_AUTHPRIV`, `LOG_CRON`, `LOG_DAEMON`, `LOG_FTP`, `LOG_KERN`, \
     `LOG_LOCAL0` to `LOG_LOCAL7`, `LOG_LPR`, `LOG_MAIL`, `LOG_NEWS`, `LOG_SYSLOG`, `LOG_USER` or `LOG_UUCP`; case does not matter, and `LOG_` may be left out";
const STREAM: &str = "`file:///DIRECTORY/NAME.jsonl?OPTIONS` or `file:///DIRECTORY/NAME.csv?OPTIONS`; \
     the name may contain a time, as `%Y`, `%m`, `%d`, `%j`, `%H`, `%M`, `%S`; \
     `nats://[USER:PASSWORD@|TOKEN@]HOST[:4222][,HOST...][/PREFIX]?OPTIONS`; `http[s]://[USER:PASSWORD@|TOKEN@]HOST[:PORT]/PATH[?QUERY]#OPTIONS`; \
     `amqp[s]://[USER:PASSWORD@]HOST[:5672][,HOST...][/VHOST]?exchange=NAME&OPTIONS`; `kafka://[USER:PASSWORD@]HOST[:9092][,HOST...]/TOPIC?OPTIONS`";

/// What to use in one server instead of a parameter of the other.
const AS_EXTRA: Hosts = Hosts::Kamailio("declare an extra with the variable instead: log_extra, db_extra");
const NULLS: Hosts = Hosts::Kamailio("leave it out: a value that is not set is NULL");
const JSON: Hosts = Hosts::Kamailio("use evi_flag: events have the same values");
const NEEDLESS: Hosts = Hosts::Kamailio("leave it out: nothing here is limited or delayed by it");
const OF_BYE: Hosts = Hosts::OpenSips("name the variable in cdr_extra, which is read on the BYE");
const BY_DIALOG: Hosts = Hosts::OpenSips("use cdr_enable, or do_accounting(\"...\", \"cdr\") in the routes");
const TABLE_BY_AVP: Hosts = Hosts::OpenSips("write the AVP into db_table_acc, which may contain variables");
const BY_CDR_FLAG: Hosts = Hosts::Kamailio("use cdr_flag, or do_accounting(\"...\", \"cdr\") in the routes");

/// Default of `time_format`. It contains a blank, so it is not a first word as in [`Param::default`].
pub const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// Value that a parameter has without a line; empty if there is no such parameter.
pub fn default_of(name: &str) -> &'static str {
    PARAMS.iter().find(|p| p.name == name).and_then(|p| p.default.split(' ').next()).unwrap_or_default()
}

/// Where a function may be called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Request, failure, branch and local routes.
    Requests,
    /// These, and in Kamailio also reply routes.
    Transactions,
    /// `Requests`, and in Kamailio every route, like its own accounting functions.
    Manual,
    /// Every route.
    All,
}

/// What an argument of a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Backends, checked at startup when constant.
    Types,
    /// Flags, checked at startup when constant.
    Flags,
    /// The name of an SQL table.
    Table,
    /// The comment of a manual record to this backend, which must be configured.
    Comment(Backend),
}

/// A script function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Name in the script.
    pub name: &'static str,
    /// Arguments, each with whether it is optional.
    pub arguments: &'static [(Argument, bool)],
    /// Routes it may be called from.
    pub routes: Routes,
}

/// Every function, given to the macro `$then`: its name, which is also that of its body in [`crate::host::script`]; its
/// arguments, those after the semicolon optional; and its routes.
macro_rules! functions {
    ($then:ident) => {
        $then! {
            do_accounting(Types; Flags, Table) Requests,
            drop_accounting(; Types, Flags) Transactions,
            acc_log_request(Comment(Backend::Log);) Manual,
            acc_db_request(Comment(Backend::Db), Table;) Manual,
            acc_aaa_request(Comment(Backend::Aaa);) Manual,
            acc_diam_request(Comment(Backend::Diameter);) Manual,
            acc_evi_request(Comment(Backend::Evi);) Manual,
            acc_stream_request(Comment(Backend::Stream);) Manual,
            acc_new_leg(;) Transactions,
            acc_load_ctx_from_dlg(;) All,
            acc_unload_ctx_from_dlg(;) All,
        }
    };
}
pub(crate) use functions;

macro_rules! function_rows {
    ($($name:ident($($needed:expr),*; $($more:expr),*) $routes:ident,)+) => {{
        use Argument::{Comment, Flags, Table, Types};
        &[$(Function { name: stringify!($name), arguments: &[$(($needed, false),)* $(($more, true),)*], routes: Routes::$routes },)+]
    }};
}

/// Every function.
pub const FUNCTIONS: &[Function] = functions!(function_rows);

/// Maximum number of arguments of a function.
pub const MOST_ARGUMENTS: usize = 3;

/// The pseudo-variable with the value of an extra field: `$acc_extra(tag)`.
pub const EXTRA: &str = "acc_extra";
/// The pseudo-variable with the value of a leg field: `$(acc_leg(tag)[index])`.
pub const LEG: &str = "acc_leg";
/// The pseudo-variable with the index of the current leg.
pub const CURRENT_LEG: &str = "acc_current_leg";

/// The pseudo-variables.
pub const VARIABLES: [&str; 3] = [EXTRA, LEG, CURRENT_LEG];

macro_rules! events {
    ($($(#[$doc:meta])+ $event:ident $name:literal $route:literal,)+) => {
        /// The events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Event {
            $($(#[$doc])+ $event,)+
        }

        impl Event {
            /// Every event.
            pub const ALL: [Event; [$($name),+].len()] = [$(Event::$event),+];

            /// Its name in OpenSIPS' event interface.
            pub const fn name(self) -> &'static str {
                [$($name),+][self as usize]
            }

            /// The route of Kamailio's script that takes it.
            pub const fn route(self) -> &'static CStr {
                [$($route),+][self as usize]
            }
        }
    };
}

events! {
    /// A transaction, or a manual request with a code below 300 or none.
    Acc "E_ACC_EVENT" c"acc:event",
    /// A missed call, or a manual request with another code.
    Missed "E_ACC_MISSED_EVENT" c"acc:missed",
    /// The end of a call.
    Cdr "E_ACC_CDR" c"acc:cdr",
    /// A call begins (flag `start`).
    Start "E_ACC_START" c"acc:start",
    /// A call is up (flag `interim`).
    Interim "E_ACC_INTERIM" c"acc:interim",
    /// More records are waiting than `backlog_threshold`, or no longer so many.
    Backlog "E_ACC_BACKLOG" c"acc:backlog",
}

/// A management command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Name in OpenSIPS' management interface.
    pub name: &'static str,
    /// Name of the RPC in Kamailio.
    pub rpc: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// Every management command, given to the macro `$then`: its name in OpenSIPS, which is also that of its body in
/// [`crate::host::management`]; the name of its RPC in Kamailio; and what it does.
macro_rules! commands {
    ($then:ident) => {
        $then! {
            acc_status "acc.status" "counters, and how delivery to each destination is",
            acc_flush "acc.flush" "delivers at once, without waiting for the end of a pause",
            acc_open_calls "acc.open_calls" "calls in progress that the journal keeps",
        }
    };
}
pub(crate) use commands;

macro_rules! command_rows {
    ($($name:ident $rpc:literal $help:literal,)+) => { &[$(Command { name: stringify!($name), rpc: $rpc, help: $help },)+] };
}

/// Every management command.
pub const COMMANDS: &[Command] = commands!(command_rows);

/// Name that the kernel shows for the process that delivers the journal: at most 15 bytes.
pub const DELIVERY_PROCESS: &CStr = c"acc delivery";

/// Name of the process that keeps it running, in the host's list of processes.
pub const DELIVERY_SUPERVISOR: &CStr = c"supervisor of CDR delivery";
