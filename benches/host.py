"""CPU per call of an installed OpenSIPS with its own accounting module and with this one; see scripts/bench.

    OPENSIPS_PREFIX=DIR scripts/bench host [OPTION...] [DESTINATION...]

Each round plays, on the same server with the same script, dialogs without accounting (the floor), and then for each destination the
original and this module in turn: calls that are answered at once and last 100 ms, one CDR for each. The CPU time is that of all
processes of the server, from the first call until the last record is where it belongs; that of databases, RADIUS server and SIPp is not
counted. A record is due for each call whose BYE the caller saw answered, and is looked for by its Call-ID. The journal of this module, the
databases and the RADIUS server, which are started on the loopback with their default durability, are in a temporary directory.

With --highest it looks for the highest rate at which the caller has to repeat nothing: up by steps, then between the last good and the
first bad rate until these are 10 % apart. A bad rate is played once more before it counts. With "at least", SIPp could not call faster.

Tables go to standard output, progress to standard error. Exit status 1 when this module lost or doubled a record.
"""
import argparse
import collections
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / d) for d in ("tests/opensips", "tests/soak")]

from calls import listed, processor_time, sipp, stop                                    # noqa: E402
from hosts import descendants, name_of                                                  # noqa: E402
from server import PROXY, Children, Failed, Installation, Listener, free_ports          # noqa: E402
from sinks import FreeRadius, MariaDb, Postgres, Syslog, is_bound, wait_for, which      # noqa: E402

HOLD = 100      # ms from the answer to the BYE
STALL = 10      # s without a further record, after which those that are missing are lost
PATIENCE = 8    # s after the last call began in which calls may end; then the caller gives them up
STEP = 1.6      # between rates, until one is too high
APART = 1.1     # a good and a bad rate, at the end
TRIES = 2       # of a rate: a single stall spoils it
MODULES = {"original": "original", "ours": "this module"}
CONFIG = """\
log_level=2
stderror_enabled={stderror}
syslog_enabled={syslog}
udp_workers={workers}
timer_workers=1
""" + PROXY + """\
loadmodule "dialog.so"
{accounting}
route {{
	if (has_totag()) {{
		if (loose_route())
			t_relay();
		else if (is_method("ACK") && t_check_trans())
			t_relay();
		exit;
	}}
	if (is_method("CANCEL")) {{
		if (t_check_trans())
			t_relay();
		exit;
	}}
	t_check_trans();
	record_route();
	{mark}
	$du = "sip:127.0.0.1:{callee}";
	t_relay();
}}
"""
# What the original's client has to know of RADIUS beside scripts/radius/dictionary.opensips-acc.
STANDARD = """\
ATTRIBUTE User-Name 1 string
ATTRIBUTE NAS-IP-Address 4 ipaddr
ATTRIBUTE NAS-Port 5 integer
ATTRIBUTE Service-Type 6 integer
ATTRIBUTE NAS-Identifier 32 string
ATTRIBUTE Acct-Status-Type 40 integer
ATTRIBUTE Acct-Delay-Time 41 integer
ATTRIBUTE Acct-Session-Id 44 string
ATTRIBUTE Event-Timestamp 55 date
"""

AWAKE = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Lacking(Exception):
    """What a destination needs is not installed."""


# ---- destinations: `begin` before each run, `lines` for the script, `callids` of the records that are there
class Destination:
    needs, modules = (), ()

    def __init__(self, bench):
        self.bench = bench
        missing = [n for n in self.needs if not which(n)] + [f"{m}.so" for m in self.modules if not (Path(bench.server.mpath) / f"{m}.so").exists()]
        if missing:
            raise Lacking(f"{', '.join(missing)} not installed")

    def begin(self, directory):
        pass


class Log(Destination):
    title, type = "log", "log"

    def lines(self):
        return ""

    def callids(self):
        return re.findall(r"ACC: call ended: .*?\bcall_id=([^;\n]*)", self.bench.log())


class Events(Destination):
    title, type, modules = "events", "evi", ("event_datagram",)
    listener = None

    def begin(self, directory):
        if self.listener:
            self.listener.closing = True
        self.listener = Listener()

    def lines(self):
        return f'loadmodule "event_datagram.so"\nstartup_route {{ subscribe_event("E_ACC_CDR", "udp:127.0.0.1:{self.listener.port}"); }}'

    def callids(self):
        events = [json.loads(d) for d in list(self.listener.got)]
        return [e["params"]["callid"] for e in events if e["method"] == "E_ACC_CDR"]


class Sql(Destination):
    type = "db"

    def __init__(self, bench):
        super().__init__(bench)
        # The tables as the server's own files make them, for both modules.
        directory = Path(bench.server.schemas).parent / self.dialect
        try:
            self.schema = "".join((directory / f"{t}-create.sql").read_text() for t in ("standard", "acc"))
        except FileNotFoundError as e:
            raise Lacking(f"{e.filename} not installed") from None

    def lines(self):
        return f'loadmodule "{self.modules[0]}.so"\nmodparam("acc", "db_url", "{self.url}")'


class SqlServer(Sql):
    def __init__(self, bench):
        super().__init__(bench)
        self.server = self.kind(bench.children, os.path.join(bench.dir, self.dialect), relayed=False)
        self.url = self.server.url
        self.ask(self.schema)

    def ask(self, sql):
        answer = self.server.ask(sql)
        if answer.returncode:
            raise SystemExit(f"{self.title}: {answer.stderr}")
        return answer.stdout

    def begin(self, directory):
        self.ask("TRUNCATE TABLE acc")

    def callids(self):
        return self.ask("SELECT callid FROM acc").split()


class Mysql(SqlServer):
    title, dialect, kind, needs, modules = "MariaDB", "mysql", MariaDb, MariaDb.needs, ("db_mysql",)


class PostgreSql(SqlServer):
    title, dialect, kind, needs, modules = "PostgreSQL", "postgres", Postgres, Postgres.needs, ("db_postgres",)


class Sqlite(Sql):
    title, dialect, modules = "SQLite", "sqlite", ("db_sqlite",)

    def begin(self, directory):
        self.path = directory / "acc.sqlite"
        self.url = f"sqlite://{self.path}"
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            db.executescript(self.schema)

    def callids(self):
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5)) as db:
                return [row[0] for row in db.execute("SELECT callid FROM acc")]
        except sqlite3.OperationalError:
            return []


class Radius(Destination):
    title, type, needs, modules = "RADIUS", "aaa", FreeRadius.needs, ("aaa_radius",)

    def __init__(self, bench):
        super().__init__(bench)
        self.server = FreeRadius(bench.children, os.path.join(bench.dir, "radius"), relayed=False)
        d = Path(self.server.dir)
        (d / "dictionary").write_text(STANDARD + (ROOT / "scripts/radius/dictionary.opensips-acc").read_text())
        with open(d / "client.conf", "a") as f:
            f.write(f"authserver 127.0.0.1:{self.server.port}\n")

    def begin(self, directory):
        with contextlib.suppress(FileNotFoundError):
            os.truncate(f"{self.server.dir}/detail", 0)     # the server appends

    def lines(self):
        return f'loadmodule "aaa_radius.so"\nmodparam("acc", "aaa_url", "{self.server.url}")'

    def callids(self):
        return [callid for callid, _ in self.server.records(f"-{self.bench.runs}")]


DESTINATIONS = {"log": Log, "events": Events, "mysql": Mysql, "postgres": PostgreSql, "radius": Radius, "sqlite": Sqlite}
HIGHEST = ["log", "mysql", "radius", "sqlite"]


# ---- one run
Run = collections.namedtuple("Run", "calls ended wall repeated cpu delivery stored lost doubled")


class Bench:
    def __init__(self, o, directory, children):
        self.o, self.dir, self.children, self.runs = o, directory, children, 0
        self.server = Installation(os.path.realpath(o.prefix), os.path.realpath(o.module))
        self.syslog = Syslog(children, os.path.join(directory, "syslog"))
        self.destinations, self.lacking = {}, {}

    def log(self):
        try:
            return Path(self.syslog.file).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def destination(self, name):
        """It, with its server started; None when something is not installed."""
        if name not in self.destinations:
            try:
                self.destinations[name] = DESTINATIONS[name](self)
            except Lacking as e:
                self.destinations[name], self.lacking[name] = None, str(e)
                say(f"skipped: {DESTINATIONS[name].title}: {e}")
        return self.destinations[name]

    def start(self, directory, destination, module, port, callee):
        """The server; with `destination` None without accounting."""
        ours = destination and module == "ours"
        if destination:
            accounting = [f'loadmodule "{self.server.module if ours else "acc.so"}"', destination.lines()]
            if ours:
                accounting.append(f'modparam("acc", "journal_dir", "{directory}/journal")')
        text = CONFIG.format(port=port, callee=callee, modules=self.server.mpath, workers=self.o.workers,
                             stderror="no" if self.syslog.private else "yes", syslog="yes" if self.syslog.private else "no",
                             accounting="\n".join(accounting) if destination else "",
                             mark=f'do_accounting("{destination.type}", "cdr|missed|failed");' if destination else "create_dialog();")
        (directory / "opensips.cfg").write_text(text)
        command = [self.server.binary, "-F", "-f", f"{directory}/opensips.cfg", "-w", str(directory), "-m", "1024", "-M", "16"]
        with open(directory / "server.log", "wb") as log:
            server = self.children.start(self.syslog.around(command), stdout=log, stderr=log)
        is_up = lambda: is_bound("udp", port) and (not ours or any(name_of(p) == "acc delivery" for p in descendants(server.pid)))
        wait_for("the server's start", lambda: server.poll() is not None or is_up())
        if server.poll() is not None:
            raise Failed("the server does not start:\n" + ((directory / "server.log").read_text(errors="replace") + self.log())[-3000:])
        return server

    def play(self, name, module, rate, giving_up=False):
        """Calls at this rate, and what came of them; `giving_up` when the caller repeats something."""
        self.runs += 1
        destination = name and self.destination(name)
        directory = Path(self.dir) / f"{self.runs}-{name or 'floor'}-{module or 'none'}"
        directory.mkdir()
        if self.syslog.private:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self.syslog.file, 0)            # the receiver appends
        else:
            self.syslog.file = str(directory / "server.log")
        if destination:
            destination.begin(directory)
        port = free_ports(3)
        server = self.start(directory, destination, module, port, port + 1)
        phones = []
        try:
            phones.append(sipp(directory, ROOT / "tests/soak/callee.xml", port + 1, "callee.list"))
            wait_for("the callee", lambda: is_bound("udp", port + 1))
            time.sleep(1)                                   # what belongs to the start of server and phone
            calls = max(1, round(rate * self.o.seconds))
            before, begin = processor_time(server.pid), time.monotonic()
            caller = sipp(directory, "caller", port + 2, "caller.list", f"127.0.0.1:{port}", "-s", "bench", "-cid_str", f"%u-%p-{self.runs}",
                          "-m", calls, "-r", rate, "-l", 100000, "-d", HOLD, "-timer_resol", 1, "-trace_stat", "-stf", "caller.csv", "-fd", 1)
            phones.append(caller)
            while caller.poll() is None and time.monotonic() < begin + self.o.seconds + PATIENCE and not (giving_up and repeated(directory)):
                time.sleep(0.05)
            wall = time.monotonic() - begin
            if caller.poll() is None:
                caller.kill()
                caller.wait()
            ended = listed(directory, "caller.list", "ended")
            spoilt = giving_up and (repeated(directory) or len(ended) < calls)
            used, found = self.delivered(server, destination, ended, spoilt)
            if server.poll() is not None:
                raise Failed(f"the server ended with {server.returncode}:\n" + self.log()[-3000:])
            used.subtract(before)
            count = collections.Counter(found)
            made = {f"{i}-{caller.pid}-{self.runs}" for i in range(1, calls + 1)}
            return Run(calls, len(ended), wall, repeated(directory), used.total(), used["acc delivery"], len(ended & count.keys()),
                       len(ended - count.keys()), count.total() - len(count) + len(count.keys() - made))
        finally:
            for p in phones:
                p.kill()
                p.wait()
            stop(server)
            self.children.kill(server)
            shutil.rmtree(directory, ignore_errors=True)

    def delivered(self, server, destination, due, spoilt):
        """The processor time when the last record had come, and the Call-IDs of all."""
        if not destination:
            return processor_time(server.pid), list(due)
        found, used, since = [], None, time.monotonic()
        while True:
            now = destination.callids()
            if used is None or len(now) != len(found):
                found, used, since = now, processor_time(server.pid), time.monotonic()
            if due <= set(found) or spoilt or time.monotonic() > since + STALL or server.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(0.3)                                     # a record too many shows
        return used, destination.callids()


def repeated(directory):
    """Requests that the caller repeated, by its last line of statistics."""
    try:
        with open(directory / "caller.csv", newline="") as f:
            return int(list(csv.DictReader(f, delimiter=";"))[-1]["Retransmissions(C)"])
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return 0


# ---- CPU per call
def spread(values):
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else f"{values[0]:.0f}"


def stored(runs):
    """Records stored of those due, and what is wrong."""
    due, calls = sum(r.ended for r in runs), sum(r.calls for r in runs)
    wrong = [f"{n} {what}" for what, n in (("lost", sum(r.lost for r in runs)), ("doubled", sum(r.doubled for r in runs)),
                                           ("calls failed", calls - due), ("requests repeated", sum(r.repeated for r in runs))) if n]
    return ", ".join([f"{sum(r.stored for r in runs)} of {due}", *wrong])


def per_call(runs, what="cpu"):
    return [1e6 * getattr(r, what) / max(1, r.ended) for r in runs]


def cpu(bench, o):
    runs = collections.defaultdict(list)

    def one(number, name, module):
        r = bench.play(name, module, o.rate)
        runs[name, module].append(r)
        what = f"{DESTINATIONS[name].title}, {MODULES[module]}" if name else "dialogs without accounting"
        say(f"round {number + 1}, {what}: {per_call([r])[0]:.0f} µs a call" + (f", records {stored([r])}" if name else ""))

    names = [n for n in o.destinations if bench.destination(n)]
    for number in range(o.rounds):
        one(number, None, None)
        for name in names:
            for module in MODULES:
                one(number, name, module)
    floor = per_call(runs[None, None])
    print(f"\nµs of CPU per call, of all processes of the server: median (lowest to highest). Dialogs without accounting: {spread(floor)}.\n")
    print("| backend | original | this module | of that, delivery process | ratio | above dialogs: original | this module | "
          "records of the original, stored of those due | of this module |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        both = [runs[name, m] for m in MODULES]
        a, b = (statistics.median(per_call(r)) for r in both)
        base = statistics.median(floor)
        print(f"| {DESTINATIONS[name].title} | {' | '.join(spread(per_call(r)) for r in both)} | "
              f"{statistics.median(per_call(both[1], 'delivery')):.0f} | {b / a:.2f} | {a - base:.0f} | {b - base:.0f} | "
              f"{' | '.join(stored(r) for r in both)} |")
    return [r for (_, module), of in runs.items() if module == "ours" for r in of]


# ---- the highest rate
class Search:
    """Up by steps to a rate that is too high, then between that and the last good one."""

    def __init__(self, rate):
        self.rate, self.good, self.bad, self.best, self.limit, self.tries = rate, 0, None, None, "", 0

    def is_over(self):
        return bool(self.limit) or (self.bad is not None and self.bad <= max(self.good * APART, self.good + 1, 5))

    def tell(self, run, seconds):
        """What came of the rate; whether it was good."""
        # The caller itself may be too slow for the rate; then the server has not shown its limit.
        slow = run.wall > 1.1 * (seconds + HOLD / 1000) + 0.5
        good = run.ended == run.calls and not run.repeated
        if good and not slow:
            self.good, self.best, self.tries = self.rate, run, 0
        else:
            self.tries += 1
            if self.tries < TRIES:
                return False
            self.bad, self.tries = self.rate, 0
            if good:
                self.limit = "at least "
        self.rate = round(self.good * STEP if self.bad is None else (self.good + self.bad) / 2 if self.good else self.bad / STEP)
        return good and not slow


def highest(bench, o):
    print("\nThe highest rate without a request that the caller repeats, in calls a second, and the records at that rate.\n")
    print("| backend | original | this module | ratio | records of the original, stored of those due | of this module |")
    print("|---|---|---|---|---|---|")
    of_ours = []
    for name in o.destinations:
        if not bench.destination(name):
            continue
        searches = {m: Search(o.rate) for m in MODULES}
        while not all(s.is_over() for s in searches.values()):
            for module, s in searches.items():
                if s.is_over():
                    continue
                rate, r = s.rate, bench.play(name, module, s.rate, giving_up=True)
                good = s.tell(r, o.seconds)
                say(f"{DESTINATIONS[name].title}, {MODULES[module]}, {rate} calls a second: " +
                    (f"records {stored([r])}" if good else f"{r.repeated} repeated, {r.ended} of {r.calls} calls after {r.wall:.1f} s"))
        a, b = (s.good for s in searches.values())
        rates = [f"{s.limit}{s.good}" for s in searches.values()]
        records = [stored([s.best]) if s.best else "-" for s in searches.values()]
        print(f"| {DESTINATIONS[name].title} | {' | '.join(rates)} | {f'{b / a:.1f}' if a else '-'} | {' | '.join(records)} |", flush=True)
        of_ours += [searches["ours"].best] if searches["ours"].best else []
    return of_ours


def machine():
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} x {model[1] if model else os.uname().machine}, Linux {os.uname().release}"


def arguments():
    ap = argparse.ArgumentParser(prog="bench host", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--highest", action="store_true", help="the highest rate instead of CPU per call")
    ap.add_argument("--rounds", type=int, default=4, metavar="N", help="of CPU per call (4)")
    ap.add_argument("--rate", type=int, default=300, metavar="N", help="calls a second; with --highest the first ones (300)")
    ap.add_argument("--seconds", type=float, default=5, metavar="S", help="for which calls begin (5)")
    ap.add_argument("--workers", type=int, default=2, metavar="N", help="of the server (2)")
    ap.add_argument("--awake", action="store_true", help="a loop on each processor, which gives way to all else, keeps them from sleeping between messages, as on a busy server")
    ap.add_argument("--module", metavar="FILE", help="acc.so to measure; otherwise it is built")
    ap.add_argument("destinations", nargs="*", metavar="DESTINATION",
                    help=f"of {', '.join(DESTINATIONS)}; all without any, with --highest {', '.join(HIGHEST)}")
    o = ap.parse_args()
    if unknown := set(o.destinations) - DESTINATIONS.keys():
        ap.error(f"no such destination: {', '.join(sorted(unknown))}")
    o.destinations = o.destinations or (HIGHEST if o.highest else list(DESTINATIONS))
    o.prefix = os.environ["OPENSIPS_PREFIX"]
    return o


def main():
    o = arguments()
    if not o.module:
        subprocess.run(["cargo", "build", "--locked", "--release", "--quiet"], check=True, cwd=ROOT)
        o.module = ROOT / "target/release/libacc.so"
    elif not os.path.exists(o.module):
        raise SystemExit(f"{o.module} does not exist")
    directory, children = tempfile.mkdtemp(prefix="acc-bench-"), Children()
    os.chmod(directory, 0o755)      # PostgreSQL runs as another user
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        bench = Bench(o, directory, children)
        if o.awake:
            for _ in range(os.cpu_count()):
                children.start([sys.executable, "-c", AWAKE])
        load = os.getloadavg()[0]
        how = f"from {o.rate} calls a second" if o.highest else f"{o.rate} calls a second, {o.rounds} round{'s' * (o.rounds > 1)}"
        how += ", processors kept awake" if o.awake else ""
        print(f"{machine()}, load {load:.1f}; OpenSIPS {'.'.join(map(str, bench.server.version))}, {o.workers} workers, {how}, {o.seconds:g} s each", flush=True)
        ours = (highest if o.highest else cpu)(bench, o)
        for name, why in bench.lacking.items():
            print(f"\n{DESTINATIONS[name].title} skipped: {why}.")
        print(f"\nLoad of the last minute at the end: {os.getloadavg()[0]:.1f}.")
        return 1 if any(r.lost or r.doubled for r in ours) else 0
    except Failed as e:
        raise SystemExit(str(e)) from None
    finally:
        children.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
