"""Where records go in a soak run: databases, RADIUS server, syslog receiver. Each can be killed, stopped and slowed.

Every sink answers `records(mark)`: pairs of Call-ID and acc_id of the CDRs whose Call-ID ends in `mark`.
"""
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

from server import free_ports

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SECRET = "soak-secret"
# acc_id in RADIUS; a number that neither the server's dictionaries nor ours use
DICTIONARY = "ATTRIBUTE Acc-Id 246 string\n"
PATIENCE = 60   # s for a server to start


def is_bound(kind, port):
    with open("/proc/net/" + kind) as f:
        return any(f":{port:04X} " in line for line in f)


def wait_for(what, test, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def which(*names):
    for n in names:
        for d in [*os.environ["PATH"].split(":"), "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"))]:
            if os.access(os.path.join(d, n), os.X_OK):
                return os.path.join(d, n)
    return None


class Daemon:
    """A server of ours behind a relay, if it is to be slowed, in a process group of its own."""
    kind = "tcp"

    def __init__(self, children, directory, relayed=True):
        self.children, self.dir, self.process = children, directory, None
        os.makedirs(directory)
        self.port = free_ports(1)
        self.front = free_ports(1) if relayed else self.port
        self.prepare()
        self.start()
        if relayed:
            self.relay = children.start([sys.executable, os.path.join(HERE, "relay.py"), self.kind, str(self.front),
                                         str(self.port)], stdin=subprocess.PIPE)
        wait_for(type(self).__name__, lambda: self.is_ready() and is_bound(self.kind, self.front))

    def start(self):
        out = open(os.path.join(self.dir, "out"), "ab")
        self.process = self.children.start(self.command(), stdout=out, stderr=out, cwd=self.dir, **self.user())

    def user(self):
        return {}

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def delay(self, milliseconds):
        self.relay.stdin.write(f"{milliseconds}\n".encode())
        self.relay.stdin.flush()

    def revive(self):
        """Undoes every fault."""
        self.delay(0)
        self.signal(signal.SIGCONT)
        end = time.monotonic() + PATIENCE
        while not self.is_ready():
            # what a killed server left behind may keep the next one from starting for a moment
            if self.process.poll() is not None:
                self.start()
            if time.monotonic() > end:
                raise SystemExit(f"{type(self).__name__} does not come back: see {self.dir}")
            time.sleep(0.1)


def run(args, **kw):
    return subprocess.run(args, capture_output=True, text=True, **kw)


class MariaDb(Daemon):
    name = "mysql"
    needs = ("mariadbd", "mariadb-install-db", "mariadb")

    def prepare(self):
        self.data = os.path.join(self.dir, "data")
        made = run([which("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", "--skip-test-db",
                    "--auth-root-authentication-method=normal", f"--user={pwd.getpwuid(os.geteuid()).pw_name}"],
                   env={**os.environ, "TMPDIR": self.dir})
        if made.returncode:
            raise SystemExit("mariadb-install-db: " + made.stderr)
        self.url = f"mysql://root@127.0.0.1:{self.front}/soak"

    def command(self):
        return [which("mariadbd"), "--no-defaults", f"--datadir={self.data}", f"--socket={self.dir}/socket",
                f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve", f"--tmpdir={self.dir}",
                "--innodb-buffer-pool-size=32M", f"--user={pwd.getpwuid(os.geteuid()).pw_name}"]

    def ask(self, sql, database=("-Dsoak",)):
        return run([which("mariadb"), "--no-defaults", "-uroot", "-S", f"{self.dir}/socket", "-N", "-B", *database],
                   input=sql)

    def is_ready(self):
        return self.ask("CREATE DATABASE IF NOT EXISTS soak", ()).returncode == 0

    def records(self, mark):
        out = self.ask(f"SELECT callid, acc_id FROM acc WHERE callid LIKE '%{mark}'")
        return None if out.returncode else [tuple(x.split("\t")) for x in out.stdout.splitlines()]


class Postgres(Daemon):
    name = "postgres"
    needs = ("postgres", "initdb", "psql")

    def user(self):
        # the server refuses to run as root
        return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    def prepare(self):
        if self.user():
            shutil.chown(self.dir, **self.user())
        made = run([which("initdb"), "-D", f"{self.dir}/data", "-U", "soak", "-A", "trust", "-E", "UTF8", "--no-locale"],
                   cwd=self.dir, **self.user())
        if made.returncode:
            raise SystemExit("initdb: " + made.stderr)
        self.url = f"postgres://soak@127.0.0.1:{self.front}/postgres"

    def command(self):
        return [which("postgres"), "-D", f"{self.dir}/data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
                "-c", f"unix_socket_directories={self.dir}"]

    def ask(self, sql):
        return run([which("psql"), "-X", "-h", "127.0.0.1", "-p", str(self.port), "-U", "soak", "-At", "-F", "\t",
                    "-c", sql, "postgres"], cwd="/")

    def is_ready(self):
        return self.ask("SELECT 1").returncode == 0

    def records(self, mark):
        out = self.ask(f"SELECT callid, acc_id FROM acc WHERE callid LIKE '%{mark}'")
        return None if out.returncode else [tuple(x.split("\t")) for x in out.stdout.splitlines()]


class Sqlite:
    """A file; its fault is a lock that somebody else holds."""
    name = "sqlite"

    def __init__(self, directory):
        os.makedirs(directory)
        self.path = os.path.join(directory, "acc.sqlite")
        self.url = "sqlite://" + self.path
        self.locks = []

    def lock(self, seconds):
        self.locks.append(threading.Thread(target=self._hold, args=(seconds,)))
        self.locks[-1].start()

    def _hold(self, seconds):
        db = sqlite3.connect(self.path, timeout=2, isolation_level=None)
        try:
            db.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            db.execute("ROLLBACK")
        except sqlite3.OperationalError:
            pass    # the writer was faster all the time
        db.close()

    def revive(self):
        while self.locks:
            self.locks.pop().join()

    def records(self, mark):
        db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)
        try:
            return db.execute("SELECT callid, acc_id FROM acc WHERE callid LIKE ?", ("%" + mark,)).fetchall()
        except sqlite3.OperationalError:
            return None
        finally:
            db.close()


class FreeRadius(Daemon):
    name, kind = "aaa", "udp"
    needs = ("freeradius",)

    def prepare(self):
        d = self.dir
        with open(f"{d}/radiusd.conf", "w") as f:
            f.write(f"""prefix = /usr
logdir = {d}
run_dir = {d}
libdir = /usr/lib/freeradius
pidfile = {d}/pid
max_requests = 65536
log {{
 destination = files
 file = {d}/log
}}
security {{
 max_attributes = 0
 status_server = no
}}
client here {{
 ipaddr = 127.0.0.1
 secret = {SECRET}
}}
modules {{
 detail {{
  filename = {d}/detail
  header = "%t"
 }}
}}
server default {{
 listen {{
  type = acct
  ipaddr = 127.0.0.1
  port = {self.port}
 }}
 accounting {{
  detail
 }}
}}
""")
        with open("/usr/share/freeradius/dictionary") as f:
            # two that the shipped file says to leave out: they give our numbers other names
            lines = [x.replace("$INCLUDE dictionary", "$INCLUDE /usr/share/freeradius/dictionary") for x in f
                     if ".columbia_university" not in x and ".illegal" not in x]
        os.makedirs(f"{d}/main")
        with open(f"{d}/main/dictionary", "w") as f:
            f.write("".join(lines) + f"$INCLUDE {ROOT}/scripts/radius/dictionary.opensips-acc\n" + DICTIONARY)
        for name, text in (("dictionary", DICTIONARY), ("servers", f"127.0.0.1 {SECRET}\n"),
                           ("client.conf", f"acctserver 127.0.0.1:{self.front}\nservers {d}/servers\n"
                                           f"dictionary {d}/dictionary\nradius_timeout 1\nradius_retries 2\n"
                                           "radius_deadtime 1\n")):
            with open(os.path.join(d, name), "w") as f:
                f.write(text)
            os.chmod(os.path.join(d, name), 0o600)
        self.url = f"radius:{d}/client.conf"

    def command(self):
        return [which("freeradius"), "-f", "-n", "radiusd", "-d", self.dir, "-D", f"{self.dir}/main",
                "-l", f"{self.dir}/log"]

    def is_ready(self):
        return self.process.poll() is None and is_bound("udp", self.port)

    def records(self, mark):
        try:
            with open(f"{self.dir}/detail", errors="replace") as f:
                text = f.read()
        except FileNotFoundError:
            return []
        out = []
        for entry in text.split("\n\n"):
            names = dict(re.findall(r'^\t(Acct-Session-Id|Acc-Id) = "(.*)"$', entry, re.M))
            if names.get("Acct-Session-Id", "").endswith(mark):
                out.append((names["Acct-Session-Id"], names.get("Acc-Id", "")))
        return out


class Syslog:
    """A receiver on the socket /dev/log that the server sees; without root the server logs to standard error."""
    name = "log"
    RECEIVER = ("import os, socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\n"
                "os.chmod(sys.argv[1], 0o666)\nf = open(sys.argv[2], 'ab', 0)\n"
                "while True:\n f.write(s.recv(65536).rstrip(b'\\0\\n') + b'\\n')\n")

    def __init__(self, children, directory):
        self.dev, self.file, self.process = os.path.join(directory, "dev"), os.path.join(directory, "lines"), None
        os.makedirs(self.dev)
        self.private = run(["unshare", "-m", "sh", "-c", "mount --bind /dev /dev"]).returncode == 0
        if self.private:
            for name in ("null", "zero", "random", "urandom", "tty", "full"):
                run(["cp", "-a", "/dev/" + name, self.dev])
            os.makedirs(os.path.join(self.dev, "shm"))
            self.process = children.start([sys.executable, "-c", self.RECEIVER, os.path.join(self.dev, "log"), self.file])
            wait_for("the syslog receiver", lambda: os.path.exists(os.path.join(self.dev, "log")))

    def around(self, command):
        """The command, with this receiver as its /dev/log."""
        return ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /dev && exec "$@"', self.dev, *command] if self.private else command

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGSTOP)

    def revive(self):
        if self.process:
            self.process.send_signal(signal.SIGCONT)

    def records(self, mark):
        try:
            with open(self.file, errors="replace") as f:
                text = f.read()
        except FileNotFoundError:
            return []
        lines = re.findall(r"ACC: call ended: (.*)", text)
        pairs = [dict(p.partition("=")[::2] for p in line.split(";")) for line in lines]
        return [(p["call_id"], p.get("acc_id", "")) for p in pairs if p.get("call_id", "").endswith(mark)]
