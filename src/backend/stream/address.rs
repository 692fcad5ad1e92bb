//! Where a broker is: `//USER:PASSWORD@HOSTS/PATH`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::url::Options;

/// Where a broker is.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Who logs in.
    pub login: Login,
    /// `HOST` or `HOST:PORT`, joined by commas in the URL.
    pub hosts: Vec<String>,
    /// What follows the slash.
    pub path: String,
}

/// A password or token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

/// Who logs in, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; without a password, this is a token.
    user: Option<Secret>,
    password: Option<Secret>,
    /// A file with the password.
    file: Option<PathBuf>,
}

/// What is sent to log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A token alone.
    Token(String),
    /// Both.
    Password(String, String),
}

impl Login {
    /// From the part of a URL before the host.
    ///
    /// # Errors
    /// See [`decoded`].
    pub fn read(text: &str) -> Result<Login, String> {
        let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
        Ok(Login { user: Some(Secret(decoded(user)?)), password: password.map(decoded).transpose()?.map(Secret), file: None })
    }

    /// Takes `user=` and `password-file=`.
    ///
    /// # Errors
    /// They do not fit together, or do not fit the URL.
    pub fn options(&mut self, options: &mut Options<'_>) -> Result<(), String> {
        if let Some(user) = options.take("user") {
            if self.user.is_some() {
                return Err("user= is given besides a user before the host: remove one".into());
            }
            self.user = Some(Secret(decoded(user)?));
        }
        let Some(file) = options.take("password-file") else { return Ok(()) };
        if !file.starts_with('/') {
            return Err("password-file must be the absolute path of a file that contains only the password".into());
        }
        if self.password.is_some() {
            return Err("password-file is given besides a password: remove one".into());
        }
        self.file = Some(file.into());
        Ok(())
    }

    /// Is there a login at all?
    pub fn is_given(&self) -> bool {
        self.user.is_some() || self.file.is_some()
    }

    /// What is sent; reads the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn credentials(&self) -> Result<Credentials, String> {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).map_err(|e| format!("stream_url: password-file={} cannot be read ({e})", file.display()))?;
            Ok::<_, String>(text.trim_end_matches(['\r', '\n']).to_owned())
        };
        let user = self.user.as_ref().map(|u| u.0.clone());
        Ok(match (user, &self.password, &self.file) {
            (Some(user), Some(password), _) => Credentials::Password(user, password.0.clone()),
            (Some(user), None, Some(file)) => Credentials::Password(user, read(file)?),
            (None, _, Some(file)) => Credentials::Token(read(file)?),
            (Some(token), None, None) => Credentials::Token(token),
            (None, _, None) => Credentials::None,
        })
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("hosts", &self.hosts).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Address {
    /// Reads `//[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PATH]`. In user, password and path, `%NN` is a byte.
    ///
    /// # Errors
    /// What is wrong; nothing of the URL is quoted.
    pub fn read(rest: &str, example: &str) -> Result<Address, String> {
        let rest = rest.strip_prefix("//").ok_or_else(|| format!("the scheme must be followed by // and a host: write {example}"))?;
        let (place, path) = match rest.rfind('@').map_or(rest, |at| &rest[at..]).find('/') {
            Some(at) => {
                let at = rest.rfind('@').unwrap_or(0) + at;
                (&rest[..at], &rest[at + 1..])
            }
            None => (rest, ""),
        };
        let (login, hosts) = place.rsplit_once('@').map_or((None, place), |(login, hosts)| (Some(login), hosts));
        let login = login.map(Login::read).transpose()?.unwrap_or_default();
        let hosts: Vec<_> = hosts.split(',').map(str::to_owned).collect();
        if hosts.iter().any(|host| host.is_empty() || host.starts_with(':') || host.chars().any(|c| c.is_whitespace() || c.is_control())) {
            return Err(format!("a host is missing: write {example}"));
        }
        if hosts.iter().any(|host| port_of(host).is_none()) {
            return Err("a port is not a number from 1 to 65535".into());
        }
        Ok(Address { login, hosts, path: decoded(path)? })
    }

    /// The hosts, each with a port.
    pub fn with_port(&self, port: u16) -> Vec<String> {
        self.hosts.iter().map(|host| if port_of(host) == Some(None) { format!("{host}:{port}") } else { host.clone() }).collect()
    }
}

/// The port after a host, if there is one; `None` if it is not a port.
fn port_of(host: &str) -> Option<Option<u16>> {
    // The colons of an address in brackets are its own.
    match host.rsplit_once(']').map_or(host, |(_, after)| after).rsplit_once(':') {
        None => Some(None),
        Some((_, port)) => port.parse().ok().filter(|n| *n > 0).map(Some),
    }
}

/// Replaces `%NN` by bytes.
///
/// # Errors
/// They are not UTF-8, or not hexadecimal digits.
pub fn decoded(text: &str) -> Result<String, String> {
    const WRONG: &str = "% must be followed by two hexadecimal digits: write %25 for a percent sign, %40 for @, %2F for /";
    if !text.contains('%') {
        return Ok(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let digits = rest.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit)).and_then(|d| std::str::from_utf8(d).ok()).ok_or(WRONG)?;
            out.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
            rest = &rest[2..];
        } else {
            out.push(first);
        }
    }
    String::from_utf8(out).map_err(|_| WRONG.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password(user.into(), password.into())
    }

    #[test]
    fn an_address_has_a_login_hosts_and_a_path() {
        let a = Address::read("//us%40er:p%2Fa:s@h1,h2:99,[::1]:7/vhost%2F1", "x").unwrap();
        assert!(a.login.credentials().unwrap() == password("us@er", "p/a:s") && a.path == "vhost/1");
        assert_eq!(a.with_port(5), ["h1:5", "h2:99", "[::1]:7"]);
        assert!(!format!("{a:?}").contains("p/a") && !format!("{a:?}").contains("us@er"));
        let a = Address::read("//h", "x").unwrap();
        assert!(a.login.credentials().unwrap() == Credentials::None && a.hosts == ["h"] && a.path.is_empty());
        // A password with an at sign and a slash in the clear.
        let a = Address::read("//u:p@/w@h/q", "x").unwrap();
        assert!(a.login.credentials().unwrap() == password("u", "p@/w") && a.hosts == ["h"] && a.path == "q");
        let a = Address::read("//t0ken@h", "x").unwrap();
        assert!(a.login.credentials().unwrap() == Credentials::Token("t0ken".into()));
        for (url, part) in [
            ("h", "followed by //"),
            ("//", "a host is missing"),
            ("//a,,b", "a host is missing"),
            ("//h:0", "a port"),
            ("//h:x", "a port"),
            ("//%zz@h", "% must be followed"),
        ] {
            assert!(Address::read(url, "x").unwrap_err().contains(part), "{url}");
        }
        assert_eq!(decoded("a%0Ab").unwrap(), "a\nb");
    }

    #[test]
    fn a_password_may_be_in_a_file() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("password");
        std::fs::write(&file, "s e:cret\n").unwrap();
        let read = |url: &str, options: &str| {
            let mut login = Address::read(url, "x")?.login;
            login.options(&mut Options::read(options)?)?;
            assert!(!format!("{login:?}").contains("s e"));
            login.credentials()
        };
        let at = format!("password-file={}", file.display());
        assert!(read("//u@h", &at) == Ok(password("u", "s e:cret")));
        assert!(read("//h", &format!("user=u&{at}")) == Ok(password("u", "s e:cret")));
        assert!(read("//h", &at) == Ok(Credentials::Token("s e:cret".into())));
        for (url, options, part) in [
            ("//u:p@h", &*at, "besides a password"),
            ("//u@h", "user=v", "besides a user"),
            ("//u@h", "password-file=x", "absolute path"),
            ("//u@h", "password-file=/nonexistent/x", "cannot be read"),
        ] {
            assert!(read(url, options).err().unwrap().contains(part), "{options}");
        }
    }
}
