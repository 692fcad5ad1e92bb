//! What packages bring beside the module: bounds of versions, files, alerts and the dashboard, against the code.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use acc::accounting::record::Kind;
use acc::declaration::SinkId;
use acc::host::{kamailio, opensips};
use acc::journal::Dir;
use acc::journal::counts::KEPT;
use acc::stats::Counter;
use common::servers::free_port;
use common::{record, skip, wait_until, writer};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The first version that the module works with.
fn oldest(first: (u16, u16, u16)) -> String {
    format!("{}.{}.{}", first.0, first.1, first.2)
}

#[test]
fn packages_have_the_bounds_of_the_versions() {
    let (o, k) = (oldest(opensips::versions::OLDEST), oldest(kamailio::versions::OLDEST));
    let manifest = read("Cargo.toml");
    for line in [
        format!("breaks = \"opensips (<< {o}), kamailio (<< {k})\""),
        format!("recommends = \"opensips (>= {o}) | kamailio (>= {k})\""),
        format!("\"(opensips >= {o} or kamailio >= {k})\" = \"*\""),
        format!("opensips = \"< {o}\""),
        format!("kamailio = \"< {k}\""),
    ] {
        assert!(manifest.contains(&line), "Cargo.toml lacks {line}");
    }
}

#[test]
fn every_file_of_the_packages_is_there() {
    let manifest = read("Cargo.toml");
    let deb = manifest.split("[package.metadata.deb]").nth(1).unwrap().split("\n[").next().unwrap();
    let rpm = manifest.split("[package.metadata.generate-rpm]").nth(1).unwrap().split("\n[").next().unwrap();
    let of_deb: BTreeSet<_> = deb.lines().filter_map(|l| l.trim().strip_prefix("[\"")?.split('"').next()).collect();
    let of_rpm: BTreeSet<_> = rpm.lines().filter_map(|l| l.trim().strip_prefix("{ source = \"")?.split('"').next()).collect();
    assert!(of_deb.len() > 15 && of_rpm.len() > 15, "{of_deb:?} {of_rpm:?}");
    for source in of_deb.union(&of_rpm).filter(|source| !source.starts_with("target/")) {
        let (folder, name) = source.rsplit_once('/').unwrap_or(("", source));
        let there = match name.split_once('*') {
            None => root().join(source).exists(),
            Some((before, after)) => std::fs::read_dir(root().join(folder)).unwrap().any(|e| {
                let name = e.unwrap().file_name().into_string().unwrap();
                name.starts_with(before) && name.ends_with(after)
            }),
        };
        assert!(there, "Cargo.toml: {source} is not there");
    }
    // Debian has the overrides for lintian, the other one COPYING, which every Debian has.
    let own: BTreeSet<_> = of_deb.symmetric_difference(&of_rpm).copied().collect();
    assert_eq!(own, BTreeSet::from(["packaging/debian/lintian-overrides", "COPYING"]));
}

/// Names of metrics in a text, without the prefix of the server.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter_map(|word| word.strip_prefix("opensips_acc_").or_else(|| word.strip_prefix("kamailio_acc_")))
        .filter(|name| !name.is_empty())
        .map(String::from)
        .collect()
}

/// What `accctl metrics` prints of a journal with a record and a call in progress.
fn of_the_tool() -> String {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "one")).unwrap();
    w.append_call(7, b"a state").unwrap();
    std::fs::write(tmp.path().join("dead-log.jsonl"), "{}\n{}\n").unwrap();
    // As a server leaves them: without the last ones if it is an older one.
    let counted: String = KEPT.iter().zip(3..).take(8).map(|(counter, n)| format!("{} {n}\n", counter.name())).collect();
    std::fs::write(tmp.path().join("calls"), counted).unwrap();
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_accctl")).arg("metrics").args(args).arg(tmp.path()).output().unwrap();
    let out = run(&[]);
    assert!(out.status.success(), "{out:?}");
    let file = tmp.path().join("acc.prom");
    let written = run(&["--textfile", file.to_str().unwrap()]);
    assert!(written.status.success() && written.stdout.is_empty(), "{written:?}");
    let names = |text: &str| text.lines().filter(|l| l.starts_with('#')).map(String::from).collect::<Vec<_>>();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(names(&std::fs::read_to_string(&file).unwrap()), names(&text));
    let refused = run(&["--textfile", "acc.txt"]);
    assert!(refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("must end in .prom"), "{refused:?}");
    text
}

#[test]
fn metrics_of_a_journal_are_those_of_its_files() {
    let text = of_the_tool();
    for line in [
        "acc_sink_pending{sink=\"db\"} 1",
        "acc_sink_pending{sink=\"aaa\"} 0",
        "acc_sink_dead_letters{sink=\"log\"} 2",
        "acc_open_calls 1",
        "acc_journal_damaged 0",
        "acc_calls_answered_total 3",
        "acc_calls_failed_total{class=\"3xx\"} 4",
        "acc_calls_failed_total{class=\"6xx\"} 7",
        "acc_calls_failed_user_total 8",
        "acc_calls_missed_total 9",
        "acc_calls_ended_total 10",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(!text.contains("acc_calls_seconds_total"), "{text}");
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(value("acc_journal_bytes") > 100.0);
    // Now, on a machine that may be busy.
    assert!((0.0..600.0).contains(&value("acc_server_last_alive_seconds")) && (0.0..600.0).contains(&value("acc_sink_oldest_age_seconds{sink=\"db\"}")));
    // Names, and what promtool thinks of them.
    let check = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut check) = check else { return skip("promtool (Debian's package prometheus) is not installed") };
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success());
}

#[test]
fn alerts_and_dashboard_ask_for_what_there_is() {
    let counters: BTreeSet<_> = Counter::ALL.iter().map(|c| c.name().to_string()).collect();
    let rules = read("share/prometheus/opensips-acc.rules.yml");
    let text = read("share/grafana/acc.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<_> = panels.iter().filter_map(|p| p["targets"].as_array()).flatten().map(|t| t["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 15, "{queries:?}");
    for name in metrics(&rules).union(&metrics(&text)) {
        assert!(counters.contains(name), "{name} is no counter");
    }
    let tool: BTreeSet<_> = of_the_tool().lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).map(String::from).collect();
    for word in (rules.clone() + &queries.join(" ")).split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| w.starts_with("acc_") && *w != "acc_")
    {
        assert!(tool.contains(word), "{word} is nothing that accctl metrics prints: {tool:?}");
    }
    // No destination is forgotten.
    for sink in SinkId::ALL {
        for server in ["opensips", "kamailio"] {
            for counter in ["dead", "oldest_age"] {
                assert!(rules.contains(&format!("{server}_acc_{}_{counter}", sink.name())), "{server} {} {counter}", sink.name());
            }
            assert!(text.contains(&format!("{server}_acc_{}_delivered", sink.name())), "{server} {}", sink.name());
        }
    }
}

/// Grafana moves panels that lie on each other, and leaves holes as they are.
#[test]
fn panels_of_the_dashboard_have_their_places() {
    let dashboard: Value = serde_json::from_str(&read("share/grafana/acc.json")).unwrap();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && taken.insert((y, x)), "{} is on another panel, or too far right", panel["title"]);
            }
        }
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
    }
    let lines = taken.iter().map(|(y, _)| y + 1).max().unwrap();
    assert_eq!(taken.len() as u64, lines * 24, "a hole between panels");
}

#[test]
fn prometheus_takes_the_alerts() {
    let folder = root().join("share/prometheus");
    let promtool = |args: &[&str]| Command::new("promtool").args(args).current_dir(&folder).output();
    let Ok(out) = promtool(&["check", "rules", "opensips-acc.rules.yml"]) else {
        return skip("promtool (Debian's package prometheus) is not installed");
    };
    assert!(out.status.success(), "{out:?}");
    let out = promtool(&["test", "rules", "opensips-acc.test.yml"]).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn the_tool_knows_the_servers_that_are_installed() {
    let mut programs = vec![PathBuf::from("/usr/sbin/kamailio")];
    programs.extend(std::env::var_os("OPENSIPS_PREFIX").map(|prefix| Path::new(&prefix).join("sbin/opensips")));
    let host = |program: &Path| Command::new(env!("CARGO_BIN_EXE_accctl")).arg("host").arg(program).output().unwrap();
    let tmp = tempfile::tempdir().unwrap();
    for program in programs.iter().filter(|program| program.exists()) {
        let out = host(program);
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("accepted"), "{out:?}");
        // The same with another version, and without a symbol that is needed.
        let bytes = std::fs::read(program).unwrap();
        let version = if program.ends_with("kamailio") { ("5.6.3\0", "5.6.1\0") } else { ("opensips 3.", "opensips 2.") };
        for (i, (from, to)) in [version, ("pv_get_spec_value\0", "pv_get_spec_other\0")].into_iter().enumerate() {
            let mut changed = bytes.clone();
            let places: Vec<_> = changed.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
            for at in places {
                changed[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
            let file = tmp.path().join("server");
            std::fs::write(&file, &changed).unwrap();
            let out = host(&file);
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            let why = if i == 0 { "and later on x86_64/linux" } else { "does not offer pv_get_spec_value" };
            // Debian's Kamailio may be another one than this text knows.
            if i == 0 && changed == bytes {
                continue;
            }
            assert!(out.status.code() == Some(1) && said.contains("refused") && said.contains(why), "{said}");
        }
    }
    let other = host(Path::new("/bin/true"));
    assert!(other.status.code() == Some(2) && String::from_utf8_lossy(&other.stderr).contains("neither OpenSIPS nor Kamailio"), "{other:?}");
}

/// Ends in an orderly way, also if the test fails: its children end with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The body that a local HTTP server answers with. Kamailio keeps the connection for two minutes.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).ok()?;
    let mut answer = BufReader::new(stream);
    let mut length = None;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let mut body = String::new();
    answer.take(length.unwrap_or(u64::MAX)).read_to_string(&mut body).ok()?;
    Some(body)
}

/// The same with a query, of a Prometheus.
fn ask(port: u16, query: &str) -> Option<Value> {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let escaped: String = query.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect();
    serde_json::from_str(&get(port, &format!("/api/v1/query?query={escaped}"))?).ok()
}

#[test]
fn kamailio_is_scraped_and_the_dashboard_asks_prometheus() {
    let modules = Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules");
    if !modules.join("xhttp_prom.so").exists() {
        return skip("Kamailio's xhttp_prom is not installed");
    }
    let exe = std::env::current_exe().unwrap();
    let module = exe.ancestors().map(|d| d.join("libacc.so")).find(|p| p.is_file()).expect("libacc.so beside the test");
    let tmp = tempfile::tempdir().unwrap();
    let (udp, http) = (free_port(), free_port());
    let dir = tmp.path().display();
    let config = format!(
        r#"#!KAMAILIO
children=1
listen=udp:127.0.0.1:{udp}
listen=tcp:127.0.0.1:{http}
tcp_accept_no_cl=yes
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "xhttp.so"
loadmodule "xhttp_prom.so"
loadmodule "{}"
modparam("xhttp_prom", "xhttp_prom_stats", "acc:")
modparam("acc", "journal_dir", "{dir}/journal")
modparam("acc", "db_url", "sqlite://{dir}/acc.sqlite")
request_route {{
    if (method == "INVITE") {{
        do_accounting("db", "failed");
        t_newtran();
        t_reply("486", "Busy Here");
    }}
    exit;
}}
event_route[xhttp:request] {{
    if (prom_check_uri()) prom_dispatch();
    else xhttp_reply("404", "Not Found", "", "");
}}
"#,
        module.display()
    );
    let file = tmp.path().join("kamailio.cfg");
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::create(tmp.path().join("log")).unwrap();
    let mut command = Command::new("/usr/sbin/kamailio");
    command.args(["-m", "64", "-DD", "-E", "-Y"]).arg(tmp.path()).arg("-f").arg(&file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let server = Running(command.spawn().unwrap());
    let mut text = String::new();
    wait_until("Kamailio shows its counters", || {
        text = get(http, "/metrics").unwrap_or_default();
        text.contains("kamailio_acc_db_pending")
    });
    let shown = metrics(&text);
    // A call is counted there.
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = phone.local_addr().unwrap();
    let invite = format!(
        "INVITE sip:b@127.0.0.1:{udp} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKone\r\nMax-Forwards: 70\r\nFrom: <sip:a@{here}>;tag=a\r\n\
         To: <sip:b@127.0.0.1>\r\nCall-ID: one\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{here}>\r\nContent-Length: 0\r\n\r\n"
    );
    wait_until("the call is counted", || {
        // The same transaction, however often it is sent.
        phone.send_to(invite.as_bytes(), ("127.0.0.1", udp)).unwrap();
        get(http, "/metrics").unwrap_or_default().lines().any(|l| l.starts_with("kamailio_acc_calls_failed_4xx") && l.split_whitespace().nth(1) == Some("1"))
    });
    let dashboard: Value = serde_json::from_str(&read("share/grafana/acc.json")).unwrap();
    // Every counter is there by the name that rules and dashboard have for it.
    let missing: Vec<_> = Counter::ALL.iter().map(|c| c.name().to_string()).filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} in {text}");

    // What accctl metrics writes for node_exporter, as that shows it.
    let tool = TcpListener::bind("127.0.0.1:0").unwrap();
    let (tool_port, journal) = (tool.local_addr().unwrap().port(), tmp.path().join("journal"));
    std::thread::spawn(move || {
        for mut stream in tool.incoming().flatten() {
            let _ = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("metrics").arg(&journal).output().unwrap();
            let head = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n", out.stdout.len());
            let _ = stream.write_all(&[head.as_bytes(), &out.stdout].concat());
        }
    });
    let port = free_port();
    std::fs::write(
        tmp.path().join("prometheus.yml"),
        format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: sip\n    static_configs: [ {{ targets: ['127.0.0.1:{http}', '127.0.0.1:{tool_port}'] }} ]\n"
        ),
    )
    .unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={dir}/prometheus.yml"))
        .arg(format!("--storage.tsdb.path={dir}/tsdb"))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let Ok(prometheus) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return skip("prometheus is not installed");
    };
    let prometheus = Running(prometheus);
    let rows = |query: &str| ask(port, query).and_then(|answer| Some(answer["data"]["result"].as_array()?.len()));
    // Two samples, for rates.
    wait_until("Prometheus has scraped twice", || rows("rate(kamailio_acc_db_accepted[5m])") == Some(1));
    wait_until("Prometheus has scraped the tool", || rows("acc_journal_bytes") == Some(1));
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap().replace("$instance", ".*");
            let answer = ask(port, &query).unwrap();
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            let found = answer["data"]["result"].as_array().unwrap().len();
            assert!(found > 0, "{}: {query} finds nothing", panel["title"]);
            asked += 1;
        }
    }
    assert!(asked > 15, "{asked}");
    drop((prometheus, server));
}
