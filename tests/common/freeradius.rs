//! A private FreeRADIUS: what it writes to its detail file is what was sent.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const BINARY: &str = "/usr/sbin/freeradius";
/// Shared with its clients on this machine.
pub const SECRET: &str = "testing123";

/// A FreeRADIUS of our own, on a loopback port, with a directory of its own.
pub struct FreeRadius {
    dir: tempfile::TempDir,
    /// Where it takes accounting requests on 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
}

impl FreeRadius {
    /// With lines of its own in the dictionary and in the section `accounting`; `None` where FreeRADIUS
    /// is not installed.
    pub fn start(dictionary: &str, accounting: &str) -> Option<FreeRadius> {
        FreeRadius::start_with(dictionary, "", accounting)
    }

    /// The same with modules of its own.
    pub fn start_with(dictionary: &str, modules: &str, accounting: &str) -> Option<FreeRadius> {
        if !Path::new(BINARY).exists() {
            super::skip(BINARY);
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = super::servers::free_port();
        let d = dir.path().display();
        // Debian's server may lack modules; detail is among the core ones.
        let conf = format!(
            "prefix = /usr\nlogdir = {d}\nrun_dir = {d}\nlibdir = /usr/lib/freeradius\npidfile = {d}/pid\ncorrect_escapes = true\nmax_requests = 65536\n\
             log {{\n destination = files\n file = {d}/log\n}}\nsecurity {{\n max_attributes = 0\n status_server = no\n}}\n\
             client here {{\n ipaddr = 127.0.0.1\n secret = {SECRET}\n}}\n\
             modules {{\n detail {{\n filename = {d}/detail\n header = \"%t\"\n }}\n{modules}}}\n\
             server default {{\n listen {{\n type = acct\n ipaddr = 127.0.0.1\n port = {port}\n }}\n accounting {{\n detail\n{accounting}\n }}\n}}\n"
        );
        std::fs::write(dir.path().join("radiusd.conf"), conf).unwrap();
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/radius/dictionary.opensips-acc");
        // The server's own dictionaries as installed, without those that the shipped file says to leave out.
        let installed = std::fs::read_to_string("/usr/share/freeradius/dictionary").unwrap();
        let installed = installed.lines().filter(|l| !l.contains(".columbia_university") && !l.contains(".illegal")).collect::<Vec<_>>().join("\n");
        let installed = installed.replace("$INCLUDE dictionary", "$INCLUDE /usr/share/freeradius/dictionary");
        std::fs::create_dir(dir.path().join("main")).unwrap();
        std::fs::write(dir.path().join("main/dictionary"), format!("{installed}\n$INCLUDE {shipped}\n{dictionary}")).unwrap();
        let mut server = FreeRadius { dir, port, child: None };
        server.run();
        Some(server)
    }

    /// Starts it again.
    pub fn run(&mut self) {
        let child = Command::new(BINARY)
            .args(["-f", "-n", "radiusd", "-d"])
            .arg(self.dir.path())
            .arg("-D")
            .arg(self.dir.path().join("main"))
            .arg("-l")
            .arg(self.dir.path().join("log"))
            .env("TZ", "UTC")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Ends it without a farewell.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Of a client configuration, with a secret.
    pub fn line(&self, secret: &str) -> String {
        format!("acctserver 127.0.0.1:{}:{secret}\n", self.port)
    }

    /// The file with what it has stored.
    pub fn detail(&self) -> PathBuf {
        self.dir.path().join("detail")
    }

    /// The entries of the detail file as `name = value` lines, without what the server adds.
    pub fn entries(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.detail()).unwrap_or_default();
        text.split("\n\n")
            .filter(|e| !e.trim().is_empty())
            .map(|e| e.lines().filter_map(|l| l.strip_prefix('\t')).filter(|l| !l.starts_with("Timestamp =")).map(str::to_owned).collect())
            .collect()
    }

    /// It runs no more.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None)))
    }

    /// What it says of itself.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for FreeRadius {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where Debian's freeradius-config keeps the schema and the queries for MySQL.
const MYSQL: &str = "/etc/freeradius/3.0/mods-config/sql/main/mysql";
/// Debian's freeradius-mysql.
const DRIVER: &str = "/usr/lib/freeradius/rlm_sql_mysql.so";

/// Its own schema for MySQL, and lines for `modules` that store there what it accounts, as shipped; `None` where
/// that is not installed. A request that the database refuses gets no answer.
pub fn mysql(port: u16, user: &str, password: &str) -> Option<(String, String)> {
    let schema = Path::new(MYSQL).join("schema.sql");
    if !Path::new(DRIVER).exists() || !schema.exists() {
        super::skip(DRIVER);
        return None;
    }
    let module = format!(
        "sql {{\n driver = rlm_sql_mysql\n dialect = mysql\n server = 127.0.0.1\n port = {port}\n login = {user}\n password = \"{password}\"\n radius_db = acc\n \
         acct_table1 = radacct\n acct_table2 = radacct\n postauth_table = radpostauth\n authcheck_table = radcheck\n groupcheck_table = radgroupcheck\n \
         authreply_table = radreply\n groupreply_table = radgroupreply\n usergroup_table = radusergroup\n client_table = nas\n group_attribute = SQL-Group\n \
         sql_user_name = \"%{{User-Name}}\"\n safe_characters = \"@abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_: /\"\n \
         event_timestamp_epoch = \"%{{%{{integer:Event-Timestamp}}:-%l}}\"\n \
         pool {{\n start = 1\n min = 1\n max = 4\n spare = 1\n uses = 0\n lifetime = 0\n idle_timeout = 60\n }}\n $INCLUDE {MYSQL}/queries.conf\n}}\n"
    );
    Some((std::fs::read_to_string(schema).unwrap(), module))
}
