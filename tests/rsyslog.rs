//! A real syslog daemon: lines reach its file, and wait while it is away.
#![forbid(unsafe_code)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use acc::backend::log as line;
use acc::backend::log::syslog::{self, Sent, SyslogSocket};
use acc::journal::{Dir, Payload, SinkId};
use common::servers::quiet;
use common::*;

/// LOG_LOCAL5.
const FACILITY: i32 = 21 << 3;

/// An rsyslogd with a socket and a file of its own.
struct Daemon {
    program: PathBuf,
    tmp: tempfile::TempDir,
    child: Option<Child>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Daemon {
    fn new() -> Option<Daemon> {
        let program = ["/usr/sbin/rsyslogd", "/sbin/rsyslogd"].map(PathBuf::from).into_iter().find(|p| p.exists())?;
        let tmp = tempfile::tempdir().unwrap();
        let text = format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{0}/log\" RateLimit.Interval=\"0\")\n\
             template(name=\"plain\" type=\"string\" string=\"%syslogfacility-text%.%syslogseverity-text% %programname%%msg%\\n\")\n\
             action(type=\"omfile\" file=\"{0}/out\" template=\"plain\")\n",
            tmp.path().display()
        );
        std::fs::write(tmp.path().join("conf"), text).unwrap();
        Some(Daemon { program, tmp, child: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn start(&mut self) {
        let child = quiet(Command::new(&self.program).args(["-n", "-f"]).arg(self.path("conf")).arg("-i").arg(self.path("pid"))).spawn().unwrap();
        self.child = Some(child);
        wait_until("rsyslogd listens", || self.path("log").exists());
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = child.wait();
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("out")).unwrap_or_default().lines().map(str::to_string).collect()
    }
}

fn start(dir: &Dir, journal: &Path, socket: PathBuf) -> Running {
    let journal = journal.to_path_buf();
    Running::start_with(dir, move |delivery| {
        delivery.config = config(None, &journal);
        delivery.makers = vec![syslog::at(socket)];
    })
}

#[test]
fn lines_reach_rsyslogd_at_once_or_when_it_is_back() {
    let Some(mut daemon) = Daemon::new() else {
        skip("rsyslogd");
        return;
    };
    let datagram = |text: &str| line::datagram(2, FACILITY, "opensips", 4711, &[text.as_bytes()]);
    let want = |text: &str| format!("local5.notice opensips {text}");
    let mut worker = SyslogSocket::new(&daemon.path("log"));
    assert_eq!(worker.try_send(&datagram("ACC: nobody is there")), Sent::NotTaken);

    // As a worker does when it is there.
    daemon.start();
    assert_eq!(worker.try_send(&datagram("ACC: call ended: 1;reason=Grüße")), Sent::Taken);
    wait_until("the first line", || daemon.lines() == [want("ACC: call ended: 1;reason=Grüße")]);

    // Away: the worker's lines go to the journal, and wait there.
    daemon.stop();
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    for n in 2..100 {
        let line = datagram(&format!("ACC: call ended: {n}"));
        assert_eq!(worker.try_send(&line), Sent::NotTaken);
        w.append(SinkId::Log, &Payload::LogLine(line)).unwrap();
    }
    drop(w);
    let running = start(&dir, tmp.path(), daemon.path("log"));
    wait_until("an attempt", || acc::stats::get(acc::journal::SinkId::Log.counters().outages) > 0);
    assert_eq!((daemon.lines().len(), segments(tmp.path())), (1, 1));

    // Back: they come in order, each once, and the journal is empty.
    daemon.start();
    wait_until("the lines", || daemon.lines().len() >= 99);
    wait_until("the journal is empty", || segments(tmp.path()) == 0);
    running.stop();
    let lines = daemon.lines();
    assert_eq!(lines[1..], (2..100).map(|n| want(&format!("ACC: call ended: {n}"))).collect::<Vec<_>>());
    assert_eq!(worker.try_send(&datagram("ACC: call ended: 100")), Sent::Taken);
    wait_until("the last line", || daemon.lines().last() == Some(&want("ACC: call ended: 100")));
}
