//! The formats in which OpenSIPS writes its log (`stderror_log_format`, `syslog_log_format`): what surrounds the text of a line.
#![forbid(unsafe_code)]

use chrono::Local;
use serde_json::Value;

/// A format of the host's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `plain_text`.
    #[default]
    Plain,
    /// `json`: one object per line.
    Json,
    /// `json_cee`: the same, with the schema of Common Event Expression.
    Cee,
}

/// Who writes a line: the server's prefix and name, and the process.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The server's own prefix of every line.
    pub prefix: &'a str,
    /// Program name in syslog.
    pub name: &'a str,
    /// Number of the process.
    pub pid: u32,
}

impl Form {
    /// The line as it is printed on stderr.
    pub fn stderr_line(self, level: i32, writer: Writer<'_>, text: &[u8]) -> Vec<u8> {
        let mut out = match self {
            Form::Plain => {
                let mut out = format!("{} [{}] {}{}:", now(), writer.pid, writer.prefix, level_name(level)).into_bytes();
                out.extend_from_slice(text);
                out
            }
            Form::Json | Form::Cee => self.object(level, writer, text).into_bytes(),
        };
        out.push(b'\n');
        out
    }

    /// What a syslog datagram contains instead of prefix, level and text; `None`: it contains these.
    pub fn syslog_object(self, level: i32, writer: Writer<'_>, text: &[u8]) -> Option<String> {
        match self {
            Form::Plain => None,
            Form::Json => Some(self.object(level, writer, text)),
            Form::Cee => Some(format!("@cee: {}", self.object(level, writer, text))),
        }
    }

    /// The host removes the colon from its prefix here, and leaves the line end in the text.
    fn object(self, level: i32, Writer { prefix, name, pid }: Writer<'_>, text: &[u8]) -> String {
        let string = |text: &str| Value::from(text).to_string();
        let text = String::from_utf8_lossy(text);
        let (module, text) = text.strip_prefix("acc: ").map_or((None, &*text), |text| (Some("acc"), text));
        let (time, level, text) = (string(&now()), string(level_name(level)), string(&format!("{text}\n")));
        let prefix = Some(string(prefix.strip_suffix(':').unwrap_or(prefix))).filter(|_| !prefix.is_empty());
        let optional = |key: &str, value: Option<String>| value.map_or_else(String::new, |value| format!("\"{key}\": {value}, "));
        let module = module.map(string);
        if self == Form::Cee {
            let native = prefix.map(|prefix| format!("{{\"log_prefix\": {prefix}}}"));
            format!(
                "{{\"time\": {time}, \"proc\": {{\"id\": \"{pid}\"}}, \"pri\": {level}, {}{}\"msg\": {text}, \"pname\": {}, \"hostname\": {}}}",
                optional("subsys", module),
                optional("native", native),
                string(name),
                string(&rustix::system::uname().nodename().to_string_lossy())
            )
        } else {
            format!("{{\"time\": {time}, \"pid\": {pid}, \"level\": {level}, {}{}\"message\": {text}}}", optional("module", module), optional("prefix", prefix))
        }
    }
}

/// Name of a host level, as printed before the text of a line.
pub const fn level_name(level: i32) -> &'static str {
    match level {
        ..=-3 => "ALERT",
        -2 => "CRITICAL",
        -1 | 0 => "ERROR",
        1 => "WARNING",
        2 => "NOTICE",
        3 => "INFO",
        4.. => "DBG",
    }
}

fn now() -> String {
    Local::now().format("%b %e %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_the_hosts_own() {
        let writer = Writer { prefix: "edge:", name: "sip-1", pid: 7 };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let stderr = |form: Form, writer, line: &str| text(form.stderr_line(2, writer, line.as_bytes()));
        let plain = stderr(Form::Plain, writer, "ACC: x");
        assert!(plain.ends_with(" [7] edge:NOTICE:ACC: x\n"), "{plain}");
        let time = &plain[..15];

        let json = stderr(Form::Json, writer, "ACC: call ended: a=\"x\"\\é");
        let (head, tail) = json.split_once("\"pid\"").unwrap();
        assert!(head.starts_with("{\"time\": \"") && head.len() == "{\"time\": \"\", ".len() + time.len());
        assert_eq!(tail, ": 7, \"level\": \"NOTICE\", \"prefix\": \"edge\", \"message\": \"ACC: call ended: a=\\\"x\\\"\\\\é\\n\"}\n");
        let bare = Writer { prefix: "", ..writer };
        let json = stderr(Form::Json, bare, "acc: there is no leg");
        assert!(json.ends_with(", \"module\": \"acc\", \"message\": \"there is no leg\\n\"}\n"), "{json}");

        let cee = Form::Cee.syslog_object(-1, writer, b"acc: no").unwrap();
        let cee: Value = serde_json::from_str(cee.strip_prefix("@cee: ").unwrap()).unwrap();
        assert_eq!((&cee["proc"]["id"], &cee["pri"], &cee["subsys"]), (&"7".into(), &"ERROR".into(), &"acc".into()));
        assert_eq!((&cee["native"]["log_prefix"], &cee["msg"], &cee["pname"]), (&"edge".into(), &"no\n".into(), &"sip-1".into()));
        assert!(cee["hostname"].as_str().is_some_and(|name| !name.is_empty()));
    }
}
