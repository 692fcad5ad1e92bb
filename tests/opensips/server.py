"""An OpenSIPS, its surroundings (event receiver, RADIUS responder) and the phones of one scenario."""
import glob
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import records
from burst import Burst
from wire import Phone

HERE = os.path.dirname(os.path.abspath(__file__))
SECRET = b"e2e-secret"
DICTIONARY = "".join(f"ATTRIBUTE {records.NAMES['aaa'][tag]} {number} string\n"
                     for number, tag in records.ATTRIBUTES.items() if tag in records.NAMES["aaa"])
DICTIONARY += "".join(f"ATTRIBUTE {name} {number} string\n" for number, tag in records.ATTRIBUTES.items()
                      for name, of in records.LEG_NAMES.items() if of == tag)


class Failed(Exception):
    """The scenario could not be played."""


class Children:
    """Every process started, so that none outlives the run."""

    def __init__(self):
        self.lock, self.all, self.closed = threading.Lock(), [], False

    def start(self, args, **kw):
        with self.lock:
            if self.closed:
                raise Failed("interrupted")
            p = subprocess.Popen(args, **{"stdin": subprocess.DEVNULL, **kw}, start_new_session=True)
            self.all.append(p)
            return p

    def kill(self, p):
        if p.returncode is None:
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            p.wait()

    def close(self):
        with self.lock:
            self.closed = True
        for p in self.all:
            self.kill(p)


# Of a configuration: a socket, and the modules of every proxy.
PROXY = """\
auto_aliases=no
socket=udp:127.0.0.1:{port}
mpath="{modules}/"
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
"""
# the server's own modules for SQL, by the scheme of db_url
DATABASES = {"text": ["db_text"], "flatstore": ["db_flatstore"], "virtual": ["db_text", "db_virtual"]}


class Installation:
    def __init__(self, prefix, module):
        self.binary = os.path.join(prefix, "sbin", "opensips")
        paths = glob.glob(os.path.join(prefix, "lib*", "opensips", "modules"))
        if not paths or not os.access(self.binary, os.X_OK):
            raise SystemExit(f"no OpenSIPS in {prefix}")
        self.mpath, self.module = paths[0], module
        text = subprocess.run([self.binary, "-V"], capture_output=True, text=True).stdout
        m = re.search(r"opensips (\d+)\.(\d+)\.(\d+)", text)
        if not m:
            raise SystemExit(f"{self.binary} -V names no version")
        self.version = tuple(int(x) for x in m.groups())
        self.schemas = os.path.join(prefix, "share", "opensips", "sqlite")

    def scenario(self, sc):
        """What is played of it, or the reason why nothing is."""
        return sc, None

    def stage(self, *args):
        return Stage(*args)

    def lacks(self, scenario):
        """The module that a scenario needs and this server has not; None when it has all."""
        files = []
        if scenario.get("dialog_database"):
            files += [os.path.join(self.mpath, "db_sqlite.so"), os.path.join(self.schemas, "dialog-create.sql")]
        files += [os.path.join(self.mpath, m + ".so") for m in DATABASES.get(scenario.get("server_database"), [])]
        return next((os.path.basename(f) for f in files if not os.path.exists(f)), None)


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(x) for x in f.read().split()]


class Listener(threading.Thread):
    """Takes datagrams on a port of its own until it is closed; `answer` makes the reply to one."""

    def __init__(self, answer=None):
        super().__init__(daemon=True)
        self.got, self.seen, self.answer, self.closing = [], set(), answer, False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        while not self.closing:
            try:
                data, peer = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            if self.answer is None or (peer, data) not in self.seen:    # the same request again is a repetition
                self.got.append(data)
            if self.answer:
                self.seen.add((peer, data))
                self.socket.sendto(self.answer(data), peer)
        self.socket.close()


def accounting_response(request):
    """Accounting-Response; its authenticator is wrong if the request's is, so that it is not taken."""
    right = hashlib.md5(request[:4] + bytes(16) + request[20:] + SECRET).digest() == request[4:20]
    head = bytes([5, request[1], 0, 20])
    return head + hashlib.md5(head + request[4:20] + SECRET).digest() if right else head + bytes(16)


def free_ports(count, taken=set(), lock=threading.Lock()):
    """`count` consecutive ports of the loopback, free for UDP and TCP, below those the kernel gives out."""
    with lock:
        while True:
            first = random.randrange(12000, 32000 - count)
            block = set(range(first, first + count))
            if block & taken:
                continue
            try:
                for port in block:
                    for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
                        with socket.socket(socket.AF_INET, kind) as s:
                            s.bind(("127.0.0.1", port))
            except OSError:
                continue
            taken |= block
            return first


def perform(what, play, o, modules, programs=()):
    """Runs `play(o, prefix, children, directory)` on an installed server that has these modules, and says what came of it; for
    scripts of their own. With `o.keep` all stays there."""
    prefix = os.environ.get("OPENSIPS_PREFIX", "")
    found = [prefix and glob.glob(f"{prefix}/lib*/opensips/modules/{m}.so") for m in modules] + [shutil.which(p) for p in programs]
    if not all(found):
        print(f"skipped: no installed OpenSIPS with {' and '.join(modules)} (OPENSIPS_PREFIX)" + "".join(f", or no {p}" for p in programs))
        return 0
    children = Children()
    d = o.keep or tempfile.mkdtemp(prefix="acc-opensips-")
    os.makedirs(d, exist_ok=True)
    try:
        print(f"ok - {what}: {play(o, os.path.realpath(prefix), children, d)}")
        return 0
    except Failed as e:
        with open(f"{d}/log", encoding="utf-8", errors="replace") as log:
            print(f"not ok - {e}\n{log.read()[-3000:]}")
        return 1
    finally:
        children.close()
        if not o.keep:
            shutil.rmtree(d, ignore_errors=True)


class Stage:
    """One scenario: its server, phones and receivers, in a directory of its own."""

    template, log_name = "opensips.cfg", "opensips.log"

    def translate(self, text):
        """What the scenario says, in the words of the server's script."""
        return text

    def dialog_database(self):
        return (f'\nmodparam("dialog", "db_url", "sqlite://{self.dir}/dialog.sqlite")'
                f'\nmodparam("dialog", "db_mode", {int(self.sc["dialog_database"])})')

    @property
    def append_branch(self):
        return "append_msg_branch" if self.inst.version >= (3, 6) else "append_branch"

    @property
    def bye_on_timeout(self):
        return "bye-on-timeout" if self.inst.version >= (4, 0) else "B"

    def __init__(self, name, scenario, installation, children, directory):
        self.name, self.sc, self.inst, self.children, self.dir = name, scenario, installation, children, directory
        self.callid = name.replace("/", "-") + "@e2e.test"
        self.events, self.radius = Listener(), Listener(accounting_response)
        self.first_port = free_ports(40)
        self.proxy = self.first_port
        self.server, self.notes, self.log_path = None, [], os.path.join(directory, self.log_name)
        self._files()

    # ---- files
    def _write(self, name, text, mode=0o644):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def _files(self):
        self._write("dictionary", DICTIONARY)
        self._write("servers", f"127.0.0.1 {SECRET.decode()}\n", 0o600)
        self._write("radius.conf", f"acctserver 127.0.0.1:{self.radius.port}\nservers {self.dir}/servers\n"
                                   f"dictionary {self.dir}/dictionary\nradius_timeout 1\nradius_retries 2\n")
        words = {
            "proxy": f"127.0.0.1:{self.proxy}", "mpath": self.inst.mpath, "dir": self.dir, "module": self.inst.module,
            "events": f"127.0.0.1:{self.events.port}", "fields": records.parameters(self.sc),
            "database": "", "db_url": f"sqlite://{self.dir}/acc.sqlite", "dialog": self.sc.get("dialog", ""), "params": self.sc.get("params", ""),
            "all": "|".join(records.TYPES.values()),
            "append_branch": self.append_branch, "bye_on_timeout": self.bye_on_timeout,
            "event_routes": "" if self.inst.version >= (3, 6) else 'loadmodule "event_route.so"',  # part of the core since
            "callid": self.callid, "callee": self._callee(1), "callee2": self._callee(2), "callee3": self._callee(3),
        }
        if self.sc.get("dialog_database"):
            for table in ("standard", "dialog"):
                with open(os.path.join(self.inst.schemas, table + "-create.sql")) as f:
                    records.sqlite3.connect(os.path.join(self.dir, "dialog.sqlite")).executescript(f.read())
            words["database"] = 'loadmodule "db_sqlite.so"'
            words["dialog"] += self.dialog_database()
        if database := self.sc.get("server_database"):
            records.make_text(os.path.join(self.dir, "text"), database == "text")
            words["database"] = "\n".join(f'loadmodule "{m}.so"' for m in DATABASES[database])
            if "db_text" in DATABASES[database]:
                # without its cache the module writes each row to the file at once
                words["database"] += '\nmodparam("db_text", "db_mode", 1)'
            if database == "virtual":
                words["database"] += (f'\nmodparam("db_virtual", "db_urls", "define set1 FAILOVER")'
                                      f'\nmodparam("db_virtual", "db_urls", "text://{self.dir}/text")')
            words["db_url"] = {"text": f"text://{self.dir}/text", "flatstore": f"flatstore:{self.dir}",
                               "virtual": "virtual://set1"}[database]
        for route in ("start", "before", "within", "cancel", "failure", "reply", "routes", "core"):
            words[route] = self.sc.get(route, "")
        with open(os.path.join(HERE, self.template)) as f:
            text = f.read()
        for _ in range(2):      # what was put in may hold words itself
            text = re.sub(r"@(\w+)@", lambda m: words.get(m[1], m[0]), text)
            text = re.sub(r"@look (\w+)@", r'xlog("route \1: $acc_extra(note) $(acc_leg(hop)[0]) $acc_current_leg\\n"); '
                                           r'$acc_extra(note) = "\1"; $(acc_leg(hop)[0]) = "in \1";', text)
        self.cfg = self._write(self.template, self.translate(text))

    def _callee(self, n):
        return f"127.0.0.1:{self.first_port + n}"

    # ---- the server
    def start_server(self):
        with open(self.log_path, "ab") as log:
            self.server = self.children.start(
                [self.inst.binary, "-F", "-f", self.cfg, "-w", self.dir, "-m", "256", "-M", "4"],
                stdout=log, stderr=log, env={**os.environ, "TZ": "UTC"})
        for _ in range(200):
            if self.server.poll() is not None:
                break
            if "result" in self.mi("which"):
                return
            time.sleep(0.05)
        raise Failed("the server did not start: " + self._last_errors())

    def stop_server(self, sig=signal.SIGTERM):
        if self.server is None:
            return
        if sig == signal.SIGKILL:
            if self.server.poll() is not None:
                self.notes.append("the server had ended before it was killed")
            self.children.kill(self.server)
            return
        ended = self.server.poll()
        if ended is None:
            self.server.send_signal(sig)
            try:
                ended = self.server.wait(15)
            except subprocess.TimeoutExpired:
                self.notes.append("the server did not stop within 15 s of SIGTERM")
                self.children.kill(self.server)
                return
        if ended != 0:
            self.notes.append(f"the server ended with status {ended}: {self._last_errors()}")

    def delivery_process(self):
        """Its number; it is a child of a child of the server's main process."""
        for child in _children(self.server.pid):
            for pid in _children(child):
                with open(f"/proc/{pid}/comm") as f:
                    if f.read() == "acc delivery\n":
                        return pid
        raise Failed("there is no delivery process")

    def _last_errors(self):
        lines = [x for x in self.log_lines() if re.search(r"(ERROR|CRITICAL):", x)]
        return " / ".join(lines[-4:]) or "no error in its log"

    def log_lines(self):
        with open(self.log_path, errors="backslashreplace") as f:
            return f.read().split("\n")

    def said(self):
        """What the script printed, see `says` in run.py; the same line several times in a row is one."""
        lines = [m[1] for m in (re.search(r"\broute (\w+: .*)$", x) for x in self.log_lines()) if m]
        return [x for x, _ in itertools.groupby(lines)]

    def mi(self, method, /, **params):
        """One command over the FIFO; the answer's text, '' when there is none."""
        path = os.path.join(self.dir, "mi-reply")
        try:
            if os.path.exists(path):
                os.unlink(path)
            os.mkfifo(path, 0o666)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                writer = os.open(os.path.join(self.dir, "fifo"), os.O_WRONLY | os.O_NONBLOCK)
                call = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params else {})}
                os.write(writer, f":mi-reply:{json.dumps(call)}\n".encode())
                os.close(writer)
                text, end = b"", time.monotonic() + 2
                while time.monotonic() < end:
                    try:
                        part = os.read(reader, 65536)
                    except BlockingIOError:
                        part = b""
                    text += part
                    if text and not part:
                        break
                    time.sleep(0.01)
                return text.decode(errors="replace")
            finally:
                os.close(reader)
        except OSError:
            return ""

    # ---- the call
    def _phone(self, name, steps, offset, remote=None, number=1):
        path = self._write(name + ".xml", Phone(remote is not None, number).scenario(steps))
        port = self.first_port + offset
        args = ["sipp", *([remote, "-cid_str", self.callid] if remote else []), "-sf", path, "-i", "127.0.0.1",
                "-p", str(port), "-mp", str(self.first_port + 10 + 6 * offset), "-m", "1", "-nostdin",
                "-timeout", "40", "-timeout_error", "-trace_err", "-error_file", name + ".err",
                "-trace_msg", "-message_file", name + ".msg"]
        with open(os.path.join(self.dir, name + ".out"), "wb") as out:
            return self.children.start(args, cwd=self.dir, stdout=out, stderr=out, env={**os.environ, "TZ": "UTC"})

    def play(self):
        """Plays the call; afterwards `t0` is when its first request left."""
        self.start_server()
        phones = {}
        for n in (1, 2, 3):
            steps = self.sc.get("callee" if n == 1 else f"callee{n}")
            if steps:
                phones[f"callee{n}"] = self._phone(f"callee{n}", steps, n, number=n)
        time.sleep(0.3)
        begin = time.time()
        phones["caller"] = self._phone("caller", self.sc["caller"], 4, f"127.0.0.1:{self.proxy}")
        for act in self.sc.get("during", []):
            time.sleep(max(0, begin + act["at"] - time.time()))
            if act["do"] == "mi":
                words = {"@callid@": self.callid, "@proxy@": f"127.0.0.1:{self.proxy}"}
                params = {k: re.sub("@[a-z]+@", lambda m: words[m[0]], v) for k, v in act.get("params", {}).items()}
                answer = self.mi(act["method"], **params)
                said = re.sub(r"\s", "", answer)
                parts = [p.replace("@callid@", re.escape(self.callid)) for p in act.get("answer", [])]
                if '"result"' not in answer or not all(re.search(p, said) for p in parts):
                    self.notes.append(f"MI {act['method']}: {answer or 'no answer'}")
            elif act["do"] == "sums":
                self._sums()
            elif act["do"] == "burst":
                Burst(self.proxy, act["at"]).start()
            elif act["do"] == "kill-delivery":
                os.kill(self.delivery_process(), signal.SIGKILL)
            else:
                self.stop_server(signal.SIGKILL if act["do"] == "kill" else signal.SIGTERM)
                time.sleep(act.get("pause", 0.3))
                self.start_server()
        for name, p in phones.items():
            try:
                status = p.wait(45)
            except subprocess.TimeoutExpired:
                self.children.kill(p)
                status = "no end"
            if status != 0:
                self.notes.append(f"SIPp, {name}: ended with {status}: {self._sipp_error(name)}")
        self.t0 = self._first_message(begin)

    def _sums(self):
        """Asks for the counters again and again while records are delivered: the sums are right each time."""
        for _ in range(50):
            answer = self.mi("get_statistics", statistics=["acc:"])
            try:
                c = json.loads(answer)["result"]
                for sink in ("db", "aaa", "log"):
                    of = {w: int(c[f"acc:{sink}_{w}"]) for w in ("accepted", "delivered", "dead", "pending", "parked")}
                    if of["accepted"] != of["delivered"] + of["dead"] + of["pending"] + of["parked"]:
                        self.notes.append(f"statistics of {sink}: {of}")
            except (KeyError, ValueError):
                self.notes.append(f"get_statistics: {answer or 'no answer'}")
                return

    def _sipp_error(self, name):
        try:
            with open(os.path.join(self.dir, name + ".err"), errors="replace") as f:
                return " ".join(f.read().split())[:400]
        except OSError:
            return "no error file"

    def _first_message(self, otherwise):
        try:
            with open(os.path.join(self.dir, "caller.msg"), errors="replace") as f:
                m = re.search(r"(\d{4}-\d\d-\d\d)[\sT]+(\d\d:\d\d:\d\d)(\.\d+)", f.read(2000))
            return records.calendar.timegm(time.strptime(m[1] + m[2], "%Y-%m-%d%H:%M:%S")) + float(m[3])
        except (OSError, TypeError):
            return otherwise

    # ---- the records
    def records(self):
        tables = ["acc", "missed_calls", *self.sc.get("tables", [])]
        database = self.sc.get("server_database")
        if database == "flatstore":
            rows = records.from_flatstore(self.dir, tables, self.sc.get("legs"))
        elif database:
            rows = records.from_text(os.path.join(self.dir, "text"), tables)
        else:
            rows = records.from_sqlite(os.path.join(self.dir, "acc.sqlite"), tables)
        return {"log": records.from_log(self.log_lines()),
                "sqlite": rows,
                "evi": records.from_events(list(self.events.got)), "aaa": records.from_radius(list(self.radius.got))}

    def close(self):
        if self.server:
            self.children.kill(self.server)
        self.events.closing = self.radius.closing = True
