"""Plays calls through a server while processes and backends are killed, stopped and slowed; see scripts/soak.

What is due: a CDR in every sink for each call that the caller saw answered and whose BYE it saw answered. It makes no
difference whether the server was killed meanwhile: such a call goes on with its restored dialog, or ends as an orphan.
The one exception: a call whose first INVITE left the caller before the server ended, and whose 200 reached it after. Its
transaction died with the server; a new server passes a repeated 200 on without any transaction, and no module is asked.
Of such calls, as of those that the phones gave up, a record may exist, but not two.

Lost is a due record that is not in a sink. Doubled is a second row for a call in SQL, and elsewhere a second record with
another acc_id: RADIUS and syslog may get one again, under the same.
"""
import argparse
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../opensips"))

from burst import Burst                                                             # noqa: E402
from hosts import Host, kill                                                        # noqa: E402
from server import Children                                                         # noqa: E402
from sinks import FreeRadius, MariaDb, Postgres, Sqlite, Syslog, is_bound, run, wait_for, which  # noqa: E402

DRAIN = 60      # s that records may take to come: longer than any pause between two attempts
SETTLE = 1.0    # s for a record too many to show
STOP_LIMIT = 15  # s in which a server ends of which a process was killed; then the others are killed too
PHONES = 15     # s after the last call began in which calls may end; then the caller gives them up
ACTS = ["kill worker", "kill server", "kill delivery", "kill delivery", "kill database", "stop database", "slow database",
        "kill radius", "stop radius", "slow radius", "stop syslog", "burst requests", "burst requests"]


def plan(seed, databases, seconds):
    """The database of a round and what is done when: (s, act, length in s, a number for the act)."""
    rng = random.Random(seed)
    acts = [(rng.uniform(0.1, seconds), rng.choice(ACTS), rng.uniform(0.2, 1.5), rng.random())
            for _ in range(rng.choice([1, 1, 2, 3]))]
    return rng.choice(databases), sorted(acts)


class Round:
    def __init__(self, number, seed, acts, host, database, others, o):
        self.mark = f"-r{number}"
        self.seed, self.acts, self.host, self.database, self.o = seed, acts, host, database, o
        self.radius, self.syslog = others
        self.ends = []          # when a server was gone
        self.killed = None

    # ---- traffic and faults
    def phone(self, name, port, *args):
        with open(os.path.join(self.host.dir, name + ".out"), "wb") as out:
            return self.host.children.start(["sipp", *args, "-sf", os.path.join(HERE, name + ".xml"), "-i", "127.0.0.1", "-p",
                                             str(port), "-nostdin"], cwd=self.host.dir, stdout=out, stderr=out)

    def play(self):
        host, o = self.host, self.o
        if host.has_ended():
            host.start()
        calls = os.path.join(host.dir, "calls")
        if os.path.exists(calls):
            os.unlink(calls)
        callee = self.phone("callee", host.port + 1)
        wait_for("the callee", lambda: is_bound("udp", host.port + 1))
        caller = self.phone("caller", host.port + 2, f"127.0.0.1:{host.port}", "-m", str(int(o.rate * o.seconds)), "-r",
                            str(o.rate), "-l", "10000", "-cid_str", f"%u-%p{self.mark}",
                            "-trace_logs", "-log_file", "calls")
        begin, undo, acts = time.monotonic(), [], list(self.acts)
        while caller.poll() is None or acts or undo:
            now = time.monotonic() - begin
            if acts and now >= acts[0][0]:
                _, act, length, number = acts.pop(0)
                undo.append((now + length, self.do(act, length, number)))
            for item in [u for u in undo if now >= u[0]]:
                undo.remove(item)
                item[1]()
            self.supervise()
            if now > o.seconds + PHONES:
                self.host.children.kill(caller)
            time.sleep(0.02)
        self.host.children.kill(callee)

    def supervise(self):
        """Starts the server again when it has ended."""
        if self.host.has_ended():
            if self.killed is None:
                raise SystemExit(f"the server ended by itself: see {self.syslog.file}")
            self.ends.append(time.time())
            self.killed = None
            self.host.start()
        elif self.killed and time.time() - self.killed > STOP_LIMIT:
            self.host.kill()

    def do(self, act, length, number):
        """Begins a fault; what ends it."""
        verb, what = act.split()
        nothing = lambda: None
        if what in ("worker", "server", "delivery"):
            if self.host.has_ended():
                return nothing
            if what == "delivery":
                kill(self.host.delivery())
            elif what == "server":
                self.killed = self.killed or time.time()
                self.host.kill()
            else:
                self.killed = self.killed or time.time()
                workers = self.host.workers()       # none when the main process is ending behind another kill
                kill(workers[int(number * len(workers)):][:1])
            return nothing
        if what == "requests":
            Burst(self.host.port, number).start()
            return nothing
        if what == "syslog":
            self.syslog.stop()
            return self.syslog.revive
        daemon = self.radius if what == "radius" else self.database
        if isinstance(daemon, Sqlite):
            daemon.lock(length)
            return nothing
        if verb == "slow":
            daemon.delay(20 + 180 * number)
        else:
            daemon.signal(signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
        return daemon.revive

    # ---- judgement
    def calls(self):
        """When the first INVITE was sent, the 200 came, and the BYE was answered, by Call-ID."""
        when = collections.defaultdict(dict)
        with open(os.path.join(self.host.dir, "calls"), errors="replace") as f:
            for m in re.finditer(r"^([SAD]) (\S+) .*?([\d.]+)$", f.read(), re.M):
                when[m[2]].setdefault(m[1], float(m[3]))
        return when

    def due(self, calls):
        return {callid for callid, c in calls.items() if len(c) == 3 and not any(c["S"] < end < c["A"] for end in self.ends)}

    def judge(self, sink, calls, due):
        """Lost and doubled Call-IDs; `None` while the sink cannot be read."""
        records = sink.records(self.mark)
        if records is None:
            return None
        ids = collections.defaultdict(list)
        for callid, acc_id in records:
            ids[callid].append(acc_id)
        several = (lambda copies: len(copies)) if sink is self.database else (lambda copies: len(set(copies)))
        doubled = [c for c, copies in ids.items() if several(copies) > 1]
        return sorted(due - ids.keys()), doubled, sorted(ids.keys() - calls.keys())

    def finish(self, sinks):
        """Waits for what is due; what is wrong, by sink."""
        for sink in sinks:
            sink.revive()
        calls = self.calls()
        due = self.due(calls)
        end = time.monotonic() + DRAIN
        while time.monotonic() < end:
            self.supervise()
            found = [self.judge(s, calls, due) for s in sinks]
            if all(f is not None and not f[0] for f in found):
                break
            time.sleep(0.3)
        time.sleep(SETTLE)
        return len(calls), due, {s.name: self.judge(s, calls, due) or (sorted(due), [], []) for s in sinks}


class Sites:
    """A server for each database; they share RADIUS server and syslog receiver."""

    def __init__(self, o, directory, children):
        self.o, self.dir, self.children = o, directory, children
        self.module, self.prefix = os.path.realpath(o.module), os.environ.get("OPENSIPS_PREFIX")
        self.databases = ["sqlite"] + [d.name for d in (MariaDb, Postgres) if all(which(n) for n in d.needs)]
        self.radius = FreeRadius(children, os.path.join(directory, "radius"))
        self.all = {}

    def site(self, name):
        if name not in self.all:
            directory = os.path.join(self.dir, name)
            where = os.path.join(directory, "database")
            os.makedirs(directory)
            database = Sqlite(where) if name == "sqlite" else {"mysql": MariaDb, "postgres": Postgres}[name](self.children, where)
            if name != "sqlite":
                accctl = os.path.join(os.path.dirname(self.module), "accctl") if not self.o.accctl else self.o.accctl
                made = run([accctl, "schema", "--apply", "--url", database.url, "--extra", "acc_id; end_cause"])
                if made.returncode:
                    raise SystemExit("accctl schema: " + made.stderr)
            syslog = Syslog(self.children, os.path.join(directory, "syslog"))
            host = Host(self.module, self.prefix, self.children, directory, database, self.radius, syslog)
            self.all[name] = host, database, syslog
        return self.all[name]


def arguments():
    here = os.path.join(HERE, "../../target")
    ap = argparse.ArgumentParser(prog="soak", description="Calls, kills and outages; then every record is looked for.")
    ap.add_argument("--rounds", type=int, default=100, metavar="N")
    ap.add_argument("--seed", type=int, metavar="S", help="of the first round; each further one has the next number")
    ap.add_argument("--rate", type=int, default=40, metavar="N", help="calls per second (40)")
    ap.add_argument("--seconds", type=float, default=2.5, metavar="S", help="of traffic in a round (2.5)")
    ap.add_argument("--module", default=os.path.join(here, "release/libacc.so"), metavar="FILE")
    ap.add_argument("--accctl", metavar="FILE", help="the tool (beside the module)")
    ap.add_argument("--keep", metavar="DIR", help="leave everything there; it must not exist")
    return ap.parse_args()


def main():
    o = arguments()
    if not os.path.exists(o.module):
        raise SystemExit(f"{o.module} does not exist: cargo build --release, or --module FILE")
    seed = o.seed if o.seed is not None else random.randrange(10**6)
    directory = os.path.abspath(o.keep) if o.keep else tempfile.mkdtemp(prefix="acc-soak-")
    os.makedirs(directory, exist_ok=not o.keep)
    os.chmod(directory, 0o755)      # PostgreSQL runs as another user
    children, totals = Children(), collections.Counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        sites = Sites(o, directory, children)
        for number in range(o.rounds):
            name, acts = plan(seed + number, sites.databases, o.seconds)
            host, database, syslog = sites.site(name)
            this = Round(number, seed + number, acts, host, database, (sites.radius, syslog), o)
            this.play()
            played, due, found = this.finish([database, sites.radius, syslog])
            totals.update(calls=played, due=len(due), rounds=1)
            print(f"seed {seed + number}: {name}, {', '.join(f'{a} at {t:.1f} s' for t, a, *_ in acts)}: "
                  f"{played} calls, {len(due)} due", flush=True)
            for sink, (lost, doubled, strange) in found.items():
                totals.update({"lost": len(lost), "doubled": len(doubled) + len(strange), f"{sink} records": len(due) - len(lost)})
                for what, which_ones in (("lost", lost), ("doubled", doubled), ("of no call", strange)):
                    if which_ones:
                        print(f"  {sink}: {what}: {' '.join(which_ones[:10])}{' ...' if len(which_ones) > 10 else ''}", flush=True)
        for host, *_ in sites.all.values():
            host.stop()
    finally:
        children.close()
        if not o.keep and not totals["lost"] and not totals["doubled"]:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print("kept:", directory)
    print(", ".join(f"{name}: {n}" for name, n in sorted(totals.items()) if name.endswith("records")))
    print(f"{totals['rounds']} rounds, {totals['calls']} calls played, {totals['due']} due in each sink, "
          f"{totals['lost']} lost, {totals['doubled']} doubled")
    return 1 if totals["lost"] or totals["doubled"] else 0


if __name__ == "__main__":
    sys.exit(main())
