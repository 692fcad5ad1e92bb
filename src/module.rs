//! THE declaration: every parameter, function, variable and event of the module, once. The host
//! families export from these tables, [`crate::config`] reads its defaults here, and the tests
//! hold README.md against them.
#![forbid(unsafe_code)]

use std::ffi::CStr;

use crate::acc::record::Backend;

/// Type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// A number.
    Int,
    /// A string.
    Str,
}

/// A module parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Name in `modparam("acc", name, value)`.
    pub name: &'static str,
    /// Type of the value.
    pub kind: ParamType,
    /// Default as the documentation shows it: its first word is the value, where there is one.
    pub default: &'static str,
    /// First version that has it.
    pub since: &'static str,
}

const fn int(name: &'static str, default: &'static str) -> Param {
    Param { name, kind: ParamType::Int, default, since: "0.1.0" }
}

const fn text(name: &'static str, default: &'static str) -> Param {
    Param { name, kind: ParamType::Str, default, since: "0.1.0" }
}

/// Names of method, From tag, To tag, Call-ID, code and reason, in that order: SQL columns without a
/// line, and parameters of events.
pub const CORE_COLUMNS: [&str; 6] = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason"];

/// Every parameter.
pub const PARAMS: &[Param] = &[
    int("early_media", "0"),
    int("report_cancels", "0"),
    int("detect_direction", "0"),
    text("extra_fields", "none"),
    text("leg_fields", "none"),
    int("log_level", "2 (L_NOTICE)"),
    text("log_facility", "LOG_DAEMON"),
    text("aaa_url", "none (RADIUS off)"),
    text("aaa_retry", "forever"),
    int("service_type", "Sip-Session of the dictionary, else 15"),
    text("db_url", "the host's default database URL, else none (SQL off)"),
    text("db_table_acc", "acc"),
    text("db_table_missed_calls", "missed_calls"),
    text("db_table_avp", "none (not used)"),
    text("acc_method_column", CORE_COLUMNS[0]),
    text("acc_from_tag_column", CORE_COLUMNS[1]),
    text("acc_to_tag_column", CORE_COLUMNS[2]),
    text("acc_callid_column", CORE_COLUMNS[3]),
    text("acc_sip_code_column", CORE_COLUMNS[4]),
    text("acc_sip_reason_column", CORE_COLUMNS[5]),
    text("acc_time_column", "time"),
    text("db_time", "local"),
    text("journal_dir", "/var/lib/opensips-acc"),
    text("journal_sync", "batch"),
    int("journal_max_size", "0 (as much as the disk takes)"),
    // Cursors, dead letters and the ends of calls have room, and a log on the same disk can still tell what is wrong.
    int("journal_min_free", "16"),
    text("journal_full", "drop-new"),
    text("drop_accounting_mode", "documented"),
    int("backlog_threshold", "0 (off)"),
    int("delivery_batch", "500"),
    int("delivery_retry_max", "30"),
    int("orphan_timeout", "20"),
    int("arena_size", "1024"),
];

/// Value that a parameter has without a line; empty for a name that is none.
pub fn default_of(name: &str) -> &'static str {
    PARAMS.iter().find(|p| p.name == name).and_then(|p| p.default.split(' ').next()).unwrap_or_default()
}

/// Where a function may be called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Request, failure, branch and local routes.
    Requests,
    /// These, and in Kamailio reply routes, as its own accounting functions.
    Transactions,
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
    /// An SQL table name.
    Table,
    /// The comment of a manual record to this backend, which must be configured.
    Comment(Backend),
}

/// A script function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Name in the script.
    pub name: &'static str,
    /// Arguments, each with whether it may be left out.
    pub arguments: &'static [(Argument, bool)],
    /// Routes it may be called from.
    pub routes: Routes,
}

/// Every function. The order is that of the entry points in the host families.
pub const FUNCTIONS: [Function; 9] = [
    Function { name: "do_accounting", arguments: &[(Argument::Types, false), (Argument::Flags, true), (Argument::Table, true)], routes: Routes::Requests },
    Function { name: "drop_accounting", arguments: &[(Argument::Types, true), (Argument::Flags, true)], routes: Routes::Transactions },
    Function { name: "acc_log_request", arguments: &[(Argument::Comment(Backend::Log), false)], routes: Routes::Transactions },
    Function { name: "acc_db_request", arguments: &[(Argument::Comment(Backend::Db), false), (Argument::Table, false)], routes: Routes::Transactions },
    Function { name: "acc_aaa_request", arguments: &[(Argument::Comment(Backend::Aaa), false)], routes: Routes::Transactions },
    Function { name: "acc_evi_request", arguments: &[(Argument::Comment(Backend::Evi), false)], routes: Routes::Transactions },
    Function { name: "acc_new_leg", arguments: &[], routes: Routes::Transactions },
    Function { name: "acc_load_ctx_from_dlg", arguments: &[], routes: Routes::All },
    Function { name: "acc_unload_ctx_from_dlg", arguments: &[], routes: Routes::All },
];

/// The pseudo-variables.
pub const VARIABLES: [&str; 3] = ["acc_extra", "acc_leg", "acc_current_leg"];

/// The events, in the order of [`crate::backend::event::Event`].
pub const EVENTS: [&str; 4] = ["E_ACC_EVENT", "E_ACC_MISSED_EVENT", "E_ACC_CDR", "E_ACC_BACKLOG"];

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

/// Every management command, in the order of [`crate::host::management::ALL`].
pub const COMMANDS: [Command; 3] = [
    Command { name: "acc_status", rpc: "acc.status", help: "counters, and how delivery to each destination is" },
    Command { name: "acc_flush", rpc: "acc.flush", help: "delivers at once, without waiting for the end of a pause" },
    Command { name: "acc_open_calls", rpc: "acc.open_calls", help: "calls in progress that the journal keeps" },
];

/// Name of the process that delivers the journal, as the kernel has it: at most 15 bytes.
pub const DELIVERY_PROCESS: &CStr = c"acc delivery";

/// Name in the host's list of processes of the one that keeps it running.
pub const DELIVERY_SUPERVISOR: &CStr = c"supervisor of CDR delivery";
