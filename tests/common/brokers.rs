//! Private brokers, on directories and ports of their own: Debian's nats-server and rabbitmq-server, and the mock cluster of
//! librdkafka.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};

use super::servers::{free_port, quiet};
use super::{PATIENCE, skip, wait_until};

/// A nats-server that ends with its test.
pub struct Nats {
    child: Child,
    directory: tempfile::TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    options: Vec<String>,
}

impl Nats {
    /// With more options; `None` where it is not installed.
    pub fn start(options: &[&str]) -> Option<Nats> {
        let server = Nats::start_at(free_port(), options)?;
        wait_until("nats-server listens", || TcpStream::connect(("127.0.0.1", server.port)).is_ok());
        Some(server)
    }

    /// The same on a given port, without waiting for it.
    pub fn start_at(port: u16, options: &[&str]) -> Option<Nats> {
        if Command::new("nats-server").arg("--version").output().is_err() {
            skip("nats-server");
            return None;
        }
        let (directory, options) = (tempfile::tempdir().unwrap(), options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        Some(Nats { child: run_nats(directory.path(), port, &options), directory, port, options })
    }

    /// Ends it without a farewell. What a stopped one has not read, it never reads.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same data and port.
    pub fn start_again(&mut self) {
        self.child = run_nats(self.directory.path(), self.port, &self.options);
    }

    /// Stops it where it is, until it is killed. Returns when it stands.
    pub fn pause(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_nats(directory: &Path, port: u16, options: &[String]) -> Child {
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(directory).args(options);
    quiet(&mut command).spawn().unwrap()
}

/// What starts RabbitMQ without becoming another user.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A RabbitMQ that ends with its test. It has the user guest, with its password.
pub struct RabbitMq {
    child: Child,
    directory: tempfile::TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    distribution: u16,
}

impl RabbitMq {
    /// With lines of its own in the configuration; `None` where it is not installed.
    pub fn start(config: &str) -> Option<RabbitMq> {
        if !Path::new(RABBITMQ).exists() || quiet(Command::new("epmd").arg("-daemon")).status().is_err() {
            skip("rabbitmq-server");
            return None;
        }
        let (directory, port, distribution) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        std::fs::write(directory.path().join("config.conf"), config).unwrap();
        let child = run_rabbitmq(directory.path(), port, distribution);
        let broker = RabbitMq { child, directory, port, distribution };
        broker.wait();
        Some(broker)
    }

    fn wait(&self) {
        let end = Instant::now() + 4 * PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < end, "rabbitmq-server does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends it without a farewell.
    pub fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same data and port.
    pub fn start_again(&mut self) {
        self.child = run_rabbitmq(self.directory.path(), self.port, self.distribution);
        self.wait();
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn run_rabbitmq(directory: &Path, port: u16, distribution: u16) -> Child {
    let at = |name: &str| directory.join(name);
    let mut command = Command::new(RABBITMQ);
    command.process_group(0).env("HOME", directory).env("RABBITMQ_NODENAME", format!("acc{port}@localhost"));
    command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string()).env("RABBITMQ_DIST_PORT", distribution.to_string());
    for (name, file) in [
        ("RABBITMQ_MNESIA_BASE", "db"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_PID_FILE", "pid"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ("RABBITMQ_CONFIG_FILE", "config"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
    ] {
        command.env(name, at(file));
    }
    quiet(&mut command).spawn().unwrap()
}

/// The mock cluster of librdkafka: one broker, and the topic `acc` of four partitions. It fails as it is told to.
pub struct MockKafka {
    child: Child,
    said: BufReader<ChildStdout>,
    /// Where it tells clients to go.
    pub brokers: String,
    /// Where it really is.
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl MockKafka {
    /// `None` where librdkafka or a C compiler is not installed.
    pub fn start() -> Option<MockKafka> {
        MockKafka::behind(None)
    }

    /// Tells clients that it is at another port.
    pub fn behind(port: Option<u16>) -> Option<MockKafka> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("mock_kafka");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers/mock_kafka.c");
        let made = Command::new("cc").arg("-o").arg(&program).arg(source).arg("-lrdkafka").stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            skip("librdkafka-dev");
            return None;
        }
        let mut child = Command::new(program).args(port.map(|port| port.to_string())).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut place = String::new();
        said.read_line(&mut place).unwrap();
        let (brokers, port) = place.trim().split_once(' ').unwrap();
        Some(MockKafka { child, said, brokers: brokers.to_owned(), port: port.parse().unwrap(), _directory: directory })
    }

    /// The next Produce requests get these codes.
    pub fn answer(&mut self, codes: &[u16]) {
        let line: String = codes.iter().map(|code| format!("{code} ")).collect();
        writeln!(self.child.stdin.as_ref().unwrap(), "{line}").unwrap();
        let mut ok = String::new();
        self.said.read_line(&mut ok).unwrap();
        assert_eq!(ok, "ok\n");
    }
}

impl Drop for MockKafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
