"""The server under test: Kamailio, or an OpenSIPS of OPENSIPS_PREFIX. It is started again whenever it has ended."""
import os
import re
import signal
import sqlite3
import subprocess
import time

from sinks import HERE, is_bound, wait_for
from server import Installation, free_ports

KAMAILIO_TABLES = "/usr/share/kamailio/db_sqlite"


def descendants(pid):
    out = [pid]
    for p in out:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children") as f:
                    out += [int(x) for x in f.read().split()]
        except OSError:
            pass
    return out


def name_of(pid):
    """What the kernel calls the process; '' when it has ended, whether somebody took note of that or not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            name, state = re.match(r"\d+ \((.*)\) (\w)", f.read()).groups()
            return "" if state == "Z" else name
    except OSError:
        return ""


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Host:
    """One server with its journal, its dialog database and its SQL sink."""

    def __init__(self, module, prefix, children, directory, database, radius, syslog):
        self.dir, self.children, self.syslog, self.process = directory, children, syslog, None
        self.port = free_ports(3)
        self.log = os.path.join(directory, "server.log")
        params = [("dialog", "db_url", f"sqlite://{'/' if not prefix else ''}{directory}/dialog.sqlite"),
                  ("dialog", "db_mode", 1), ("acc", "journal_dir", f"{directory}/journal"),
                  ("acc", "db_url", database.url), ("acc", "aaa_url", radius.url), ("acc", "orphan_timeout", 2),
                  ("acc", "delivery_retry_max", 1), ("acc", "extra_fields", "db: acc_id; end_cause"),
                  ("acc", "extra_fields", "log: acc_id; end_cause"), ("acc", "extra_fields", "aaa: acc_id->Acc-Id"),
                  # Kept of a burst's requests, and written nowhere: nobody listens to events.
                  ("acc", "extra_fields", "evi: big"), ("acc", "arena_size", 16)]
        if prefix:
            installed = Installation(prefix, module)
            self.binary, tables = installed.binary, installed.schemas
            words = {"mpath": installed.mpath, "stderr": "no" if syslog.private else "yes",
                     "syslog": "yes" if syslog.private else "no"}
        else:
            self.binary, tables = "/usr/sbin/kamailio", KAMAILIO_TABLES
            words = {"stderr": "no" if syslog.private else "yes"}
        words |= {"proxy": f"127.0.0.1:{self.port}", "callee": f"127.0.0.1:{self.port + 1}", "module": module,
                  "params": "\n".join(f'modparam("{m}", "{n}", {v})' if isinstance(v, int) else
                                      f'modparam("{m}", "{n}", "{v}")' for m, n, v in params)}
        self.is_kamailio = not prefix
        with open(os.path.join(HERE, "kamailio.cfg" if self.is_kamailio else "opensips.cfg")) as f:
            text = re.sub(r"@(\w+)@", lambda m: words[m[1]], f.read())
        with open(os.path.join(directory, "server.cfg"), "w") as f:
            f.write(text)
        dialogs = sqlite3.connect(os.path.join(directory, "dialog.sqlite"))
        for table in ("standard", "dialog"):
            with open(os.path.join(tables, table + "-create.sql")) as f:
                dialogs.executescript(f.read())
        dialogs.close()
        if not syslog.private:
            syslog.file = self.log

    def command(self):
        config, run = os.path.join(self.dir, "server.cfg"), ["-w", self.dir]
        return [self.binary, "-f", config, *run, "-DD", "-Y", self.dir, "-m", "512"] if self.is_kamailio \
            else [self.binary, "-F", "-f", config, *run, "-m", "512", "-M", "8"]

    def is_up(self):
        return is_bound("udp", self.port) and self.delivery()

    def has_ended(self):
        return self.process is None or self.process.poll() is not None

    def start(self):
        # its own messages wait for a receiver that is stopped, and it would not start
        self.syslog.revive()
        with open(self.log, "ab") as log:
            self.process = self.children.start(self.syslog.around(self.command()), stdout=log, stderr=log,
                                               env={**os.environ, "TZ": "UTC"})
        wait_for(f"the server's start (see {self.syslog.file})", lambda: self.has_ended() or self.is_up())
        if self.has_ended():
            raise SystemExit(f"the server does not start: see {self.syslog.file}")

    def stop(self):
        """In order; whether it ended by itself."""
        if self.has_ended():
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit("the server did not stop within 20 s of SIGTERM")

    # ---- what the faults hit
    def kill(self):
        """Every process of the server."""
        pids = descendants(self.process.pid)
        kill(pids)
        self.process.wait()
        wait_for("the end of all processes", lambda: not any(name_of(p) for p in pids))

    def delivery(self):
        return [p for p in descendants(self.process.pid) if name_of(p) == "acc delivery"]

    def workers(self):
        """Processes that the main one forked itself, in their order."""
        of_main = descendants(self.process.pid)
        return [p for p in of_main[1:] if p not in self.delivery()]
