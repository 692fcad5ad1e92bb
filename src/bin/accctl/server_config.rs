//! The `modparam("acc", ...)` lines of a configuration of OpenSIPS or Kamailio.
//!
//! What only the running server can know becomes an error at the line that needs it, never a guess.
#![forbid(unsafe_code)]

use std::path::Path;

use acc::params::RawValue;

use crate::script::lexer::{self, Kind, Token, Tokens};

/// What the configuration says about accounting.
#[derive(Default)]
pub struct Found {
    /// The lines for the module, in order.
    pub lines: Vec<Line>,
    /// `db_default_url` of OpenSIPS.
    pub default_url: Option<String>,
    /// What could not be followed and may not matter.
    pub notes: Vec<String>,
}

/// One line for a module.
pub struct Line {
    /// File and line.
    pub at: String,
    /// Name of the parameter.
    pub name: String,
    /// Its value, or why it is not known.
    pub value: Result<RawValue, String>,
}

/// Reads `path` and what it includes. `defines` are `NAME` or `NAME=VALUE`, as for `kamailio -A`.
pub fn read(path: &Path, defines: &[String]) -> Result<Found, String> {
    let mut tokens = lexer::read(path, defines)?;
    let mut found = Found { notes: std::mem::take(&mut tokens.notes), ..Found::default() };
    let mut rest = tokens.all.as_slice();
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token.word() {
            Some("modparam") => found.modparam(&tokens, token, after, false)?,
            // Its value is a text with variables, which the server evaluates.
            Some("modparamx") => found.modparam(&tokens, token, after, true)?,
            Some("db_default_url") => {
                if let Some((sign, mut after)) = after.split_first()
                    && sign.is('=')
                    && let Some(url) = text(&mut after)
                {
                    found.default_url = Some(url);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Takes a string, and those that follow it directly.
pub fn text(rest: &mut &[Token]) -> Option<String> {
    let mut out: Option<String> = None;
    while let Some((Token { kind: Kind::Text(part), .. }, after)) = rest.split_first() {
        out.get_or_insert_default().push_str(part);
        *rest = after;
    }
    out
}

/// Takes the next token if it is this sign.
fn sign(rest: &mut &[Token], sign: char) -> bool {
    match rest.split_first() {
        Some((token, after)) if token.is(sign) => {
            *rest = after;
            true
        }
        _ => false,
    }
}

/// The value of a parameter, or why it is not known.
pub fn value(rest: &mut &[Token]) -> Result<RawValue, String> {
    if let Some(text) = text(rest) {
        // It is unknown what an undefined name beside it adds.
        return match rest.first() {
            Some(token) if token.is(')') => Ok(RawValue::Str(text)),
            Some(Token { kind: Kind::Unknown(why), .. }) => Err(why.to_string()),
            _ => Err("its value is more than one string".into()),
        };
    }
    let negative = sign(rest, '-');
    if !negative {
        sign(rest, '+');
    }
    match rest.first().map(|token| &token.kind) {
        Some(Kind::Number(n)) => i32::try_from(if negative { -n } else { *n }).map(RawValue::Int).map_err(|_| format!("{n} is too large")),
        Some(Kind::Word(word)) => match &**word {
            "yes" | "true" | "on" | "enable" => Ok(RawValue::Int(1)),
            "no" | "false" | "off" | "disable" => Ok(RawValue::Int(0)),
            _ => Err(format!("{word} is not defined: give --define {word}=VALUE if the server gets it with -A")),
        },
        Some(Kind::Unknown(why)) => Err(why.to_string()),
        _ => Err("its value is neither a string nor a number".into()),
    }
}

impl Found {
    /// After `modparam`.
    fn modparam(&mut self, tokens: &Tokens, word: &Token, mut rest: &[Token], evaluated: bool) -> Result<(), String> {
        let at = tokens.at(word.at);
        if !sign(&mut rest, '(') {
            return Ok(());
        }
        let Some(module) = text(&mut rest) else { return Ok(()) };
        if !is_of(&module, "acc") {
            if module.contains(['.', '*', '[', '?', '+']) {
                self.notes.push(format!("{at}: accctl does not read patterns as module names: \"{module}\" is not treated as acc"));
            }
            return Ok(());
        }
        sign(&mut rest, ',');
        let Some(name) = text(&mut rest) else { return Err(format!("{at}: modparam needs the name of a parameter, in quotes")) };
        sign(&mut rest, ',');
        let value = match &word.doubt {
            Some(why) => Err(why.to_string()),
            None if evaluated => Err("modparamx is evaluated by the server".into()),
            None => value(&mut rest),
        };
        self.lines.push(Line { at, name, value });
        Ok(())
    }
}

/// Whether the first argument of `modparam` names this module.
pub fn is_of(argument: &str, module: &str) -> bool {
    argument.trim_matches(['(', ')']).split('|').any(|m| m.eq_ignore_ascii_case(module))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// The lines for the module in these files, the first of which is the configuration, as `NAME=VALUE` or
    /// `NAME: why it is not known`.
    fn lines(files: &[(&str, &str)], defines: &[&str]) -> Result<Vec<String>, String> {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = tmp.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let defines: Vec<_> = defines.iter().map(|d| d.to_string()).collect();
        let folder = format!("{}/", tmp.path().display());
        let found = read(&tmp.path().join(files[0].0), &defines).map_err(|e| e.replace(&folder, ""))?;
        let show = |line: &Line| match &line.value {
            Ok(RawValue::Int(n)) => format!("{}={n}", line.name),
            Ok(RawValue::Str(s)) => format!("{}={s:?}", line.name),
            Err(why) => format!("{}: {}", line.name, why.replace(&folder, "")),
        };
        let url = found.default_url.map(|url| format!("default={url:?}"));
        Ok(found.lines.iter().map(show).chain(url).chain(found.notes.iter().map(|n| format!("note {}", n.replace(&folder, "")))).collect())
    }

    fn one(text: &str) -> Vec<String> {
        lines(&[("a.cfg", text)], &[]).unwrap()
    }

    #[test]
    fn values_are_read_as_the_servers_read_them() {
        for (value, want) in [
            (r#""x""#, r#"n="x""#),
            (r#"'x\n"'"#, r#"n="x\\n\"""#),
            (r#""a\tb\"\\\x41\101\q\1""#, r#"n="a\tb\"\\AA\\q\\1""#),
            ("\"db: a;\\\n b\"", r#"n="db: a; b""#),
            ("\"a\" # one\n \"b\" /* two */ 'c'", r#"n="abc""#),
            ("12", "n=12"),
            ("- 1", "n=-1"),
            ("+1", "n=1"),
            ("0x1F", "n=31"),
            ("010", "n=8"),
            ("101b", "n=5"),
            ("yes", "n=1"),
            ("off", "n=0"),
            ("4294967296", "n: 4294967296 is too large"),
            ("NAME", "n: NAME is not defined: give --define NAME=VALUE if the server gets it with -A"),
            ("$var(x)", "n: its value is neither a string nor a number"),
        ] {
            assert_eq!(one(&format!("modparam(\"acc\", \"n\", {value})\n")), [want], "{value}");
        }
    }

    #[test]
    fn only_the_lines_of_the_module_count() {
        let text = r#"
            # modparam("acc", "a", 1)
            // modparam("acc", "b", 1)
            /* modparam("acc", "c", 1) /* inner */ modparam("acc", "d", 1) */
            socket=udp:10.0.0.1:5060 as 192.0.2.1:5060
            db_default_url = "mysql://opensips:x@localhost/opensips"
            loadmodule "acc.so"
            modparam("tm", "e", 1)
            modparam("accx", "f", 1)
            modparam("dialog|acc", "g", 7)
            modparam('ACC','h','"')
            modparam("a.*", "i", 1)
            route { xlog("modparam(\"acc\", \"j\", 1) # \n"); $var(modparam) = $(hdr(X)[#]{s.select,0,"}); if ($rU =~ '^"') exit; }
            modparam
            (
              "acc" , "k" , "last"
            )
        "#;
        let note = "note a.cfg:12: accctl does not read patterns as module names: \"a.*\" is not treated as acc";
        assert_eq!(one(text), ["g=7", r#"h="\"""#, r#"k="last""#, "default=\"mysql://opensips:x@localhost/opensips\"", note]);
    }

    #[test]
    fn included_files_are_beside_the_file_that_names_them() {
        let files = [
            (
                "a.cfg",
                "include_file \"sub/b.cfg\"\n#!include_file 'c.cfg'\n#!ifdef LEVEL\nmodparam(\"acc\", \"level\", 1)\n#!endif\nimport_file \"gone.cfg\"\nmodparam(\"acc\", \"last\", LEVEL)\n",
            ),
            ("sub/b.cfg", "include_file \"c.cfg\"\n"),
            ("sub/c.cfg", "modparam(\"acc\", \"sub\", 1)"),
            ("c.cfg", "#!define LEVEL 3\nmodparam(\"acc\", \"top\", 1)"),
        ];
        assert_eq!(lines(&files, &[]).unwrap(), ["sub=1", "top=1", "level=1", "last=3"]);
        let e = lines(&[("a.cfg", "\ninclude_file \"gone.cfg\"")], &[]).unwrap_err();
        assert!(e.starts_with("a.cfg:2: gone.cfg cannot be read: "), "{e}");
        let e = lines(&[("a.cfg", "include_file \"a.cfg\"")], &[]).unwrap_err();
        assert!(e.ends_with("more than 50 files include each other"), "{e}");
    }

    #[test]
    fn kamailios_preprocessor_decides() {
        let text = r#"
            #!define DBURL "mysql://k:x@localhost/kamailio"
            #!define LONG "a" \
                "b"
            #!trydef DBURL "other"
            #!define N 1
            #!redefine N 2
            #!define TWICE N
            #!substdef "!HOST!db.example.com!g"
            #!substdefs "!QUOTED!text!"
            #!ifdef WITH_A
            modparam("acc", "a", 1)
            #!ifdef DBURL
            modparam("acc", "a2", 1)
            #!else
            modparam("acc", "not", 'an unclosed string does not matter here)
            #!endif
            #!else
            modparam("acc", "b", 1)
            #!endif
            #!ifndef WITH_A
            modparam("acc", "c", DBURL)
            !!endif
            modparam("acc", "d", LONG)
            modparam("acc", "e", TWICE)
            modparam("acc", "f", "//HOST/HOST")
            modparam("acc", "g", QUOTED)
            loadmodule "/usr/lib/tls.so"
            #!ifdef MOD_tls
            modparam("acc", "h", 1)
            #!endif
        "#;
        let rest = ["d=\"ab\"", "e=2", "f=\"//db.example.com/db.example.com\"", "g=\"text\"", "h=1"];
        assert_eq!(one(text), [&["b=1", "c=\"mysql://k:x@localhost/kamailio\""], &rest[..]].concat());
        assert_eq!(lines(&[("a.cfg", text)], &["WITH_A"]).unwrap(), [&["a=1", "a2=1"], &rest[..]].concat());
        assert_eq!(lines(&[("a.cfg", "modparam(\"acc\", \"n\", X)")], &["X='y'"]).unwrap(), ["n=\"y\""]);
    }

    #[test]
    fn what_only_the_server_knows_is_said() {
        let text = r#"
            #!defenv DBURL
            modparam("acc", "a", DBURL)
            #!ifexp 1 < 2
            #!define X 1
            modparam("acc", "b", 1)
            #!endif
            modparam("acc", "c", X)
            #!ifdef KAMAILIO_5_6
            #!else
            modparam("acc", "d", 1)
            #!endif
            modparamx("acc", "e", "$def(X)")
            #!subst "/a.c/b/"
            #!defexp Y 1 + 1
            modparam("acc", "f", Y)
        "#;
        assert_eq!(
            one(text),
            [
                "a: DBURL comes from the environment of the server (a.cfg:2): give --define DBURL=VALUE",
                "b: it depends on #!ifexp 1 < 2 in a.cfg:4, which accctl cannot evaluate",
                "c: X is not known: it depends on #!ifexp 1 < 2 in a.cfg:4, which accctl cannot evaluate: give --define X=VALUE",
                "d: it depends on #!ifdef KAMAILIO_5_6 in a.cfg:9, which accctl cannot evaluate",
                "e: modparamx is evaluated by the server",
                "f: Y is the value of an expression (a.cfg:15): give --define Y=VALUE",
                "note a.cfg:14: #!subst is not followed: only plain text can be replaced",
            ]
        );
        assert_eq!(lines(&[("a.cfg", text)], &["KAMAILIO_5_6", "DBURL=\"x\""]).unwrap()[0], "a=\"x\"");
    }

    #[test]
    fn what_has_no_end_is_named() {
        for (text, want) in [
            ("\n\"abc", "a.cfg:2: the string that begins here is not closed"),
            ("/* /* */", "a.cfg:1: the comment that begins here is not closed"),
            ("#!ifdef A\nmodparam", "a.cfg:1: #!ifdef A has no #!endif in its file"),
            ("#!ifndef A\n", "a.cfg:1: #!ifndef A has no #!endif"),
            ("#!endif\n", "a.cfg:1: #!endif without #!ifdef"),
            ("#!else\n", "a.cfg:1: #!else without #!ifdef"),
            ("#!subst \"abc\"\n", "a.cfg:1: #!subst needs a pattern and its replacement, as in \"/from/to/\""),
            ("#!define A A\nmodparam(\"acc\", \"n\", A)\n", "a.cfg:2: A is defined as itself"),
            ("modparam(\"acc\", 1)", "a.cfg:1: modparam needs the name of a parameter, in quotes"),
        ] {
            assert_eq!(lines(&[("a.cfg", text)], &[]).unwrap_err(), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(parts in prop::collection::vec(prop_oneof![
            "[ -~\n]{0,8}",
            "\\PC{0,3}",
            prop::sample::select(vec!["#!define A ", "#!ifdef A\n", "#!ifexp\n", "#!else\n", "#!endif\n", "#!subst \"/a/b/g\"\n", "modparam(\"acc\", \"log_flag\", ", "route {", "failure_route[a] {", "if (is_method(\"INVITE\")) ", "switch ($rm) {", "case \"BYE\":", "}", "else ", "while (1) ", "break;", "exit;", "t_on_failure(\"a\");", "t_relay();", "route(a);", "$acc_extra(x) = ", "do_accounting(\"db\", \"cdr\");", "modparam(\"acc\", \"n\", ", "A", ")", "\"", "'", "\\x", "\\77", "/*", "*/", "$(", "include_file \"a.cfg\"\n", "0x", "-"]).prop_map(str::to_owned),
        ], 0..30)) {
            let text = parts.concat();
            let _ = lines(&[("a.cfg", &text)], &[]);
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("a.cfg");
            std::fs::write(&path, format!("loadmodule \"acc.so\"\n{text}")).unwrap();
            let _ = crate::script::lexer::read(&path, &[]).map(|tokens| crate::check_config::findings(&tokens));
        }
    }
}
