//! `db_url`, in the form that OpenSIPS' database modules accept.
#![forbid(unsafe_code)]

use std::path::PathBuf;

/// Where a database is.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A file.
    Sqlite(PathBuf),
    /// MySQL or MariaDB.
    MySql(Server),
    /// PostgreSQL.
    Postgres(Server),
}

/// How far a connection is protected. MySQL and PostgreSQL have the same steps, under different names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Off,
    /// TLS when the server offers it.
    #[default]
    Preferred,
    /// TLS or no connection; any certificate is accepted.
    Required,
    /// The certificate must come from a trusted authority.
    VerifyCa,
    /// It must also name the host of the URL.
    VerifyHost,
}

/// Options for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// What is required of the server.
    pub mode: TlsMode,
    /// Authorities to trust, PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, PEM.
    pub cert: Option<PathBuf>,
    /// See `cert`.
    pub key: Option<PathBuf>,
}

/// What a server's own client calls these options, and the values of the first.
struct TlsNames {
    mode: &'static str,
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
    modes: [&'static str; 5],
}

const MODES: [TlsMode; 5] = [TlsMode::Off, TlsMode::Preferred, TlsMode::Required, TlsMode::VerifyCa, TlsMode::VerifyHost];
const MYSQL: TlsNames =
    TlsNames { mode: "ssl-mode", ca: "ssl-ca", cert: "ssl-cert", key: "ssl-key", modes: ["disabled", "preferred", "required", "verify_ca", "verify_identity"] };
const POSTGRES: TlsNames =
    TlsNames { mode: "sslmode", ca: "sslrootcert", cert: "sslcert", key: "sslkey", modes: ["disable", "prefer", "require", "verify-ca", "verify-full"] };

/// A database server. No `Debug`: it holds the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Host name or address; `None` is this machine.
    pub host: Option<String>,
    /// Port; `None` is the usual one.
    pub port: Option<u16>,
    /// User; empty is the process's user.
    pub user: String,
    /// Password.
    pub password: Option<String>,
    /// Database.
    pub database: String,
    /// Unix socket instead of host and port (`?socket=/path`).
    pub socket: Option<PathBuf>,
    /// Protection of the connection.
    pub tls: Tls,
    /// There is no pooler in between, so prepared statements stay with the connection (PostgreSQL only).
    pub direct: bool,
    /// The URL names a domain of OpenSIPS' TLS management, which this module does not use.
    pub tls_domain: bool,
}

impl Server {
    fn remark(&self, names: &TlsNames) -> Option<String> {
        let TlsNames { mode, ca, modes, .. } = names;
        self.tls_domain.then(|| {
            format!(
                "db_url: tls_domain is only for the server's own database modules and has no effect: {mode} decides how TLS is used ({} by default, which does not verify the database); to verify it, write {mode}={}&{ca}=/file",
                modes[1], modes[4]
            )
        })
    }
}

impl Target {
    /// What to tell the operator about the URL.
    pub fn remark(&self) -> Option<String> {
        match self {
            Target::Sqlite(_) => None,
            Target::MySql(server) => server.remark(&MYSQL),
            Target::Postgres(server) => server.remark(&POSTGRES),
        }
    }
}

/// Checks `db_url` at startup. The error names the parameter and says what to do, but never contains
/// the URL itself, which may hold a password.
pub fn validate_url(url: &str) -> Result<(), String> {
    if is_foreign(url) {
        // The host's own limit.
        return if url.len() <= 255 { Ok(()) } else { Err("db_url is longer than the 255 bytes that the server's database modules accept".into()) };
    }
    if let Target::MySql(server) | Target::Postgres(server) = parse(url)? {
        for file in [&server.tls.ca, &server.tls.cert, &server.tls.key].into_iter().flatten() {
            std::fs::File::open(file).map_err(|e| format!("db_url names a file for TLS, {}, that cannot be read: {e}", file.display()))?;
        }
    }
    Ok(())
}

/// The part before the colon; empty unless it is a valid name.
pub fn scheme(url: &str) -> &str {
    let name = url.trim().split_once(':').map_or("", |(s, _)| s);
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') { name } else { "" }
}

/// This module leaves the URL to the host's database modules.
pub fn is_foreign(url: &str) -> bool {
    !["", "sqlite", "sqlite3", "mysql", "postgres", "postgresql"].contains(&scheme(url).to_ascii_lowercase().as_str())
}

/// Reads `db_url`.
pub fn parse(url: &str) -> Result<Target, String> {
    let (scheme, rest) = url
        .trim()
        .split_once(':')
        .ok_or("db_url has no scheme: write sqlite:///path, mysql://user:password@host/database or postgres://user:password@host/database")?;
    match scheme.to_ascii_lowercase().as_str() {
        "sqlite" | "sqlite3" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            match path {
                "" | "/" => Err("db_url does not name an SQLite file: write sqlite:///path/to/file".into()),
                ":memory:" => Err("db_url names a database in memory, which no other process can read: write sqlite:///path/to/file".into()),
                _ => Ok(Target::Sqlite(path.into())),
            }
        }
        "mysql" => server(rest, &MYSQL).map(Target::MySql),
        "postgres" | "postgresql" => server(rest, &POSTGRES).map(Target::Postgres),
        _ => Err(format!("db_url begins with {:.20}:, which only a running server can write to: use sqlite:, mysql: or postgres:", self::scheme(url))),
    }
}

fn server(rest: &str, names: &TlsNames) -> Result<Server, String> {
    let rest = rest.strip_prefix("//").ok_or("db_url needs // after the scheme: write mysql://user:password@host/database")?;
    // As the host does, from the right: a password may hold any character but the last '@'.
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(l, p)| (Some(l), p));
    // OpenSIPS' form for a socket: its path has slashes.
    let (socket, place) = match place.strip_prefix("unix(") {
        Some(rest) => {
            let (path, place) = rest.split_once(')').filter(|(path, _)| path.starts_with('/')).ok_or("db_url has a socket that is not unix(/path)")?;
            (Some(path.into()), place)
        }
        None => (None, place),
    };
    let (place, options) = place.split_once('?').map_or((place, ""), |(p, o)| (p, o));
    let (address, database) = place.split_once('/').ok_or("db_url does not name a database: write mysql://user:password@host/database")?;
    if database.is_empty() {
        return Err("db_url does not name a database: write mysql://user:password@host/database".into());
    }
    let (user, password) = match login {
        Some(login) => login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p.to_string()))),
        None => ("", None),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or("db_url has a '[' without ']' around its address")?;
            (host, after.strip_prefix(':'))
        }
        None => address.split_once(':').map_or((address, None), |(h, p)| (h, Some(p))),
    };
    let port = match port {
        None | Some("") => None,
        Some(p) => Some(p.parse().ok().filter(|p| *p != 0).ok_or("db_url has a port that is not a number from 1 to 65535")?),
    };
    let (mut socket, mut mode, mut tls, mut tls_domain, mut direct) = (socket, None, Tls::default(), false, false);
    for option in options.split('&').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("socket", path)) if path.starts_with('/') => socket = Some(path.into()),
            Some(("tls_domain", _)) => tls_domain = true,
            Some(("direct", value @ ("yes" | "no"))) if names.mode == POSTGRES.mode => direct = value == "yes",
            Some((name, value)) if name == names.mode => {
                let at = names.modes.iter().position(|m| m.eq_ignore_ascii_case(value));
                mode = Some(MODES[at.ok_or_else(|| format!("db_url has an invalid {}: use one of {}", names.mode, names.modes.join(", ")))?]);
            }
            Some((name, path)) if name == names.ca && path.starts_with('/') => tls.ca = Some(path.into()),
            Some((name, path)) if name == names.cert && path.starts_with('/') => tls.cert = Some(path.into()),
            Some((name, path)) if name == names.key && path.starts_with('/') => tls.key = Some(path.into()),
            _ => {
                let TlsNames { mode, ca, cert, key, .. } = names;
                let direct = if *mode == POSTGRES.mode { "direct=yes, " } else { "" };
                return Err(format!(
                    "db_url has an option this module does not know: write ?socket=/path, {direct}{mode}=..., {ca}=/file, {cert}=/file or {key}=/file"
                ));
            }
        }
    }
    tls.mode = mode.unwrap_or_default();
    if tls.ca.is_some() && !matches!(tls.mode, TlsMode::VerifyCa | TlsMode::VerifyHost) {
        return Err(format!("db_url has {} but does not verify the database: add {}={} or {}", names.ca, names.mode, names.modes[3], names.modes[4]));
    }
    if tls.cert.is_some() != tls.key.is_some() {
        return Err(format!("db_url has only one of {} and {}: write both", names.cert, names.key));
    }
    Ok(Server {
        host: (!host.is_empty()).then(|| host.to_string()),
        port,
        user: user.into(),
        password,
        database: database.into(),
        socket,
        tls,
        direct,
        tls_domain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_paths() {
        for (url, path) in [
            ("sqlite:///var/lib/acc.sqlite", "/var/lib/acc.sqlite"),
            ("sqlite://rel/acc.sqlite", "rel/acc.sqlite"),
            ("sqlite:acc.sqlite", "acc.sqlite"),
            ("sqlite:/var/acc", "/var/acc"),
        ] {
            assert!(parse(url) == Ok(Target::Sqlite(path.into())), "{url}");
        }
    }

    #[test]
    fn servers() {
        let Ok(Target::MySql(s)) = parse("mysql://u:p@ss:w@db.example.com:3307/billing") else { panic!("refused") };
        assert_eq!(
            (s.host.as_deref(), s.port, &*s.user, s.password.as_deref(), &*s.database),
            (Some("db.example.com"), Some(3307), "u", Some("p@ss:w"), "billing")
        );
        let Ok(Target::Postgres(s)) = parse("postgresql://u@[::1]/b?socket=/run/pg") else { panic!("refused") };
        assert_eq!((s.host.as_deref(), s.port, s.password, s.socket), (Some("::1"), None, None, Some("/run/pg".into())));
        let Ok(Target::MySql(s)) = parse("mysql://u:p@unix(/run/mysqld/mysqld.sock)/b?tls_domain=dom1") else { panic!("refused") };
        assert_eq!((s.host.as_deref(), &*s.database, s.socket.as_deref()), (None, "b", Some(std::path::Path::new("/run/mysqld/mysqld.sock"))));
        let Ok(Target::Postgres(s)) = parse("postgres:///b") else { panic!("refused") };
        assert_eq!((s.host, s.user.as_str(), s.database.as_str(), s.direct), (None, "", "b", false));
        assert!(matches!(parse("postgres:///b?direct=yes"), Ok(Target::Postgres(s)) if s.direct));
        assert!(validate_url("mysql://h/d?direct=yes").is_err() && validate_url("postgres://h/d?direct=maybe").unwrap_err().contains("direct=yes"));
    }

    #[test]
    fn the_rest_is_left_to_the_host() {
        for (url, name) in [("text:///var/db", "text"), ("http:host/x", "http"), ("virtual://set", "virtual"), ("db_x:y", "db_x")] {
            assert!(is_foreign(url) && validate_url(url).is_ok() && parse(url).is_err() && scheme(url) == name, "{url}");
        }
        assert!(validate_url(&format!("text:{}", "x".repeat(255))).unwrap_err().starts_with("db_url "));
        assert!(!is_foreign("SQLite:x") && !is_foreign("postgresql://h/d"));
    }

    #[test]
    fn tls_has_the_names_of_each_client() {
        let tls = |url: &str| match parse(url) {
            Ok(Target::MySql(s) | Target::Postgres(s)) => s.tls,
            _ => panic!("{url}"),
        };
        assert_eq!(tls("mysql://h/d").mode, TlsMode::Preferred);
        assert_eq!(tls("mysql://h/d?ssl-mode=REQUIRED").mode, TlsMode::Required);
        let full = tls("mysql://h/d?ssl-mode=verify_identity&ssl-ca=/ca&ssl-cert=/c&ssl-key=/k");
        assert_eq!((full.mode, full.ca, full.cert, full.key), (TlsMode::VerifyHost, Some("/ca".into()), Some("/c".into()), Some("/k".into())));
        assert_eq!(tls("postgres://h/d?sslmode=disable").mode, TlsMode::Off);
        assert_eq!(tls("postgres://h/d?sslmode=verify-ca&sslrootcert=/ca").ca, Some("/ca".into()));
        for (url, said) in [
            ("mysql://h/d?sslmode=require", "ssl-mode=..."),
            ("mysql://h/d?ssl-mode=secret", "use one of disabled, preferred"),
            ("postgres://h/d?sslrootcert=/secret", "add sslmode=verify-ca or verify-full"),
            ("postgres://h/d?sslmode=require&sslcert=/secret", "write both"),
            ("mysql://h/d?ssl-mode=verify_ca&ssl-ca=secret", "ssl-ca=/file"),
        ] {
            let e = validate_url(url).unwrap_err();
            assert!(e.starts_with("db_url ") && e.contains(said) && !e.contains("secret"), "{url}: {e}");
        }
        for (url, said) in [
            ("mysql://h/d?tls_domain=dom1", "write ssl-mode=verify_identity&ssl-ca=/file"),
            ("postgres://h/d?tls_domain=dom1", "write sslmode=verify-full&sslrootcert=/file"),
        ] {
            assert!(parse(url).ok().unwrap().remark().unwrap().contains(said), "{url}");
        }
        assert_eq!(parse("mysql://h/d").ok().unwrap().remark(), None);
        assert!(validate_url("mysql://h/d?ssl-mode=verify_ca&ssl-ca=/no/such/file").unwrap_err().contains("/no/such/file"));
    }

    #[test]
    fn refusals_name_the_parameter_and_never_the_password() {
        for url in [
            "",
            "secret",
            "se cret:///x",
            "mysql:secret",
            "mysql://u:secret@h",
            "mysql://u:secret@h/",
            "mysql://u:secret@h:x/d",
            "sqlite:",
            "sqlite::memory:",
            "mysql://u:secret@[h/d",
            "mysql://u:secret@h/d?secret=1",
            "mysql://u:secret@unix(/run/secret",
            "mysql://u:secret@unix(secret)/d",
        ] {
            let e = validate_url(url).unwrap_err();
            assert!(e.starts_with("db_url ") && !e.contains("secret"), "{url}: {e}");
        }
    }
}
