#!/usr/bin/env python3
"""Two OpenSIPS nodes on the loopback, with replicated dialogs, a sharing tag and one SQLite file; calls with SIPp.

    OPENSIPS_PREFIX=/usr/local tests/cluster/run.py [--module FILE] [--rounds N] [--seed S] [--keep DIR]

Plays the named situations, then N rounds of random moves: a node is killed or stopped and comes back, the tag moves before
or behind the address, the link between the nodes is cut, lifetimes end. At the end of each, both nodes are started once
more; then each call that was answered must have one CDR in SQL, with the values set last, and at least one in the log, with one
acc_id. CDRs doubled in the log are an error unless the link was cut or a node was down at the end of the call. Each
round prints its seed; --seed S --rounds 1 plays it again. Says "skipped" where there is nothing to play with.

With --price N it plays N calls without any trouble instead, by turns with the server's own module acc and with ours, and
says what the nodes sent each other and the CPU time that both took."""
import argparse
import asyncio
import collections
import glob
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CALLS = 12
ORPHAN = 8          # orphan_timeout: the nodes find each other within some seconds
HOLD = 9            # seconds from the calls' beginning to their BYE
SETTLED = 40        # patience for what must come
LIFETIME = 75       # of the dialogs of a round: they end behind all that is done in it

CONFIG = """\
log_level=3
stderror_enabled=yes
syslog_enabled=no
udp_workers=2
tcp_workers=1
timer_workers=1
socket=udp:127.0.0.1:{sip} tag home
socket=bin:127.0.0.1:{bin}
# The address of both: a Route with the other node's port leads here, too.
alias=udp:127.0.0.1:{other_sip}
mpath="{modules}/"
loadmodule "proto_udp.so"
loadmodule "proto_bin.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
modparam("tm", "fr_timeout", 3)
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "mi_fifo.so"
modparam("mi_fifo", "fifo_name", "{dir}/fifo")
modparam("mi_fifo", "reply_dir", "{dir}/")
loadmodule "clusterer.so"
modparam("clusterer", "db_mode", 0)
modparam("clusterer", "my_node_id", {id})
modparam("clusterer", "my_node_info", "cluster_id=1, url=bin:127.0.0.1:{bin}, flags=seed")
modparam("clusterer", "neighbor_node_info", "cluster_id=1, node_id={other_id}, url=bin:127.0.0.1:{other_bin}")
modparam("clusterer", "ping_interval", 1)
modparam("clusterer", "node_timeout", 2)
modparam("clusterer", "seed_fallback_interval", 2)
modparam("clusterer", "sharing_tag", "pair/1=backup")
loadmodule "dialog.so"
modparam("dialog", "dialog_replication_cluster", 1)
{acc}

route {{
	if (has_totag()) {{
		if (is_method("ACK") && t_check_trans()) {{
			t_relay();
			exit;
		}}
		if (loose_route()) {{
			# behind loose_route(): the dialog module has replicated by then
			if (is_method("INFO"))
				{inside}
			t_relay();
		}}
		exit;
	}}
	t_check_trans();
	if (is_method("INVITE")) {{
		record_route();
		create_dialog("{dialog}");
		set_dlg_sharing_tag("pair");
		$DLG_timeout = {lifetime};
		$acc_extra(note) = "first";
		do_accounting("log|db", "cdr");
	}}
	$du = "sip:127.0.0.1:{callee}";
	t_relay();
}}
"""

OURS = """loadmodule "{module}"
modparam("acc", "db_url", "sqlite://{db}")
modparam("acc", "journal_dir", "{dir}/journal")
modparam("acc", "arena_size", 64)
modparam("acc", "orphan_timeout", {orphan})
modparam("acc", "extra_fields", "log: note; acc_id")
modparam("acc", "extra_fields", "db: note; acc_id; end_cause")
"""

ORIGINAL = """loadmodule "db_sqlite.so"
loadmodule "acc.so"
modparam("acc", "db_url", "sqlite://{db}")
modparam("acc", "extra_fields", "log: note")
modparam("acc", "extra_fields", "db: note")
"""

HEADERS = """{method} {uri} SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: <sip:alice@127.0.0.1>;tag=a[call_number]
To: <sip:bob@127.0.0.1>{to}
Call-ID: [call_id]
CSeq: {cseq} {method}
Contact: <sip:alice@[local_ip]:[local_port]>
Max-Forwards: 70
{route}Content-Length: 0

"""


def send(method, cseq, inside=True, retrans=True):
    text = HEADERS.format(method=method, uri="[next_url]" if inside else "sip:bob@127.0.0.1", cseq=cseq, to="[peer_tag_param]" if inside else "", route="[routes]\n" if inside else "")
    attribute = f' retrans="500" start_txn="{method.lower()}"' if retrans else ' ack_txn="invite"'
    return f"<send{attribute}><![CDATA[\n{text}]]></send>"


def got(code, of, more="", then=""):
    """An answer belongs to its request: a repeated 200 of the INVITE must not be taken for that of the BYE."""
    return f'<recv response="{code}" response_txn="{of}"{more}>{then}</recv>'


def caller(bye_to, hold=HOLD, change=1):
    """A call that says when it was answered, changes its value after `change` seconds, and hangs up at the node `bye_to`, or never."""
    steps = [send("INVITE", 1, inside=False), got(100, "invite", ' optional="true"'), got(180, "invite", ' optional="true"'),
             got(200, "invite", ' rrs="true"', '<action><log message="answered [call_id]"/></action>'),
             send("ACK", 1, retrans=False), f'<pause milliseconds="{change * 1000}"/>', send("INFO", 2), got(200, "info"),
             f'<pause milliseconds="{(hold - change) * 1000}"/>']
    if bye_to:
        steps += [f'<nop><action><setdest host="127.0.0.1" port="{bye_to}" protocol="UDP"/></action></nop>', send("BYE", 3),
                  got(200, "bye", ' timeout="8000"')]
    return '<?xml version="1.0"?>\n<scenario name="caller">\n' + "\n".join(steps) + "\n</scenario>\n"


def reply(code, extra="Contact: <sip:bob@[local_ip]:[local_port]>\n", tag=";tag=b[call_number]"):
    return (f"<![CDATA[\nSIP/2.0 {code}\n[last_Via:]\n[last_Record-Route:]\n[last_From:]\n[last_To:]{tag}\n[last_Call-ID:]\n[last_CSeq:]\n"
            f"{extra}Content-Length: 0\n\n]]>")


# Replies go to the node that the request came from, which may be another than the first.
TO_SENDER = ('<action><ereg regexp="127.0.0.1:([0-9]+)" search_in="hdr" header="Via:" assign_to="all,port"/></action>'
             '</recv><nop><action><setdest host="127.0.0.1" port="[$port]" protocol="UDP"/></action></nop>')
BYE_OK = f"""<recv request="BYE">{TO_SENDER}
<send>{reply("200 OK", tag="")}</send>"""
CALLEE = f"""<?xml version="1.0"?>
<scenario name="callee">
<recv request="INVITE" rrs="true"/>
<send>{reply("180 Ringing")}</send>
<pause milliseconds="100"/>
<send retrans="500">{reply("200 OK")}</send>
<recv request="ACK"/>
<recv request="INFO">{TO_SENDER}
<send>{reply("200 OK", tag="")}</send>
{BYE_OK}
<Reference variables="all"/>
</scenario>
"""
# It says nothing to a BYE.
SILENT = CALLEE.replace(BYE_OK, '<recv request="BYE"/><pause milliseconds="20000"/>')


def free_port():
    """Below those that the system hands out."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u, socket.socket() as t:
            try:
                u.bind(("127.0.0.1", port))
                t.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Link:
    """Carries what one node sends the other, and counts its packets and bytes by capability."""
    PONG = (b"clusterer-internal", 1)

    def __init__(self, port, to):
        self.to, self.drop_pongs, self.seen = to, False, collections.defaultdict(lambda: [0, 0])
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.accept, "127.0.0.1", port))
        # Not in the way of the program's end, should a node hang.
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def accept(self, reader, writer):
        try:
            back, out = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        answers = asyncio.ensure_future(self.copy(back, writer))
        try:
            while True:
                head = await reader.readexactly(12)
                magic, size, _version, name = struct.unpack("<4sIHH", head)
                assert magic == b"P4CK", head
                body = await reader.readexactly(size - 12)
                capability, kind = body[:name], struct.unpack_from("<I", body, name)[0]
                count = self.seen[capability.decode()]
                count[0] += 1
                count[1] += size
                if not self.drop_pongs or (capability, kind) != self.PONG:
                    out.write(head + body)
                    await out.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            out.close()
            writer.close()
            answers.cancel()

    @staticmethod
    async def copy(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
            # The node is gone: so is the connection to it.
            writer.close()
        except OSError:
            pass

    async def end(self):
        self.server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)


class Node:
    def __init__(self, pair, name, number):
        self.pair, self.name, self.number, self.process, self.crashes = pair, name, number, None, 0
        self.dir = os.path.join(pair.dir, name)
        os.makedirs(os.path.join(self.dir, "journal"))
        self.sip, self.bin, self.reached_at = free_port(), free_port(), free_port()
        # What the other one sends.
        self.link = Link(self.reached_at, self.bin)

    def start(self):
        other = self.pair.other(self)
        path = os.path.join(self.dir, "cfg")
        acc = (ORIGINAL if self.pair.original else OURS).format(module=self.pair.args.module, db=self.pair.db, dir=self.dir, orphan=ORPHAN)
        with open(path, "w") as f:
            f.write(CONFIG.format(sip=self.sip, bin=self.bin, other_sip=other.sip, other_bin=other.reached_at, id=self.number, other_id=other.number,
                                  dir=self.dir, modules=MODULES, acc=acc, callee=self.pair.callee, lifetime=self.pair.lifetime, inside=self.pair.inside, dialog=""))
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen([OPENSIPS, "-F", "-m", "128", "-f", path, "-w", self.dir], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True)

    def end(self, how):
        """SIGKILL to all its processes, or an orderly stop."""
        if how == signal.SIGKILL:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        try:
            if self.process.wait(20) < 0 and how != signal.SIGKILL:
                self.crashes += 1
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def is_up(self):
        return self.process is not None and self.process.poll() is None

    def cpu(self):
        """Seconds of CPU that its processes have used."""
        ticks = 0
        for stat in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(stat) as f:
                    fields = f.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def mi(self, method, *params):
        """A management command; its answer, or nothing."""
        answer = os.path.join(self.dir, "answer")
        try:
            os.mkfifo(answer)
        except FileExistsError:
            pass
        inside = ", ".join('"%s"' % p if isinstance(p, str) else str(p) for p in params)
        try:
            read = os.open(answer, os.O_RDONLY | os.O_NONBLOCK)
            fifo = os.open(os.path.join(self.dir, "fifo"), os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        try:
            os.write(fifo, f':answer:{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": [{inside}]}}\n'.encode())
            for _ in range(30):
                time.sleep(0.1)
                try:
                    if text := os.read(read, 1 << 16):
                        return text.decode()
                except BlockingIOError:
                    pass
            return ""
        finally:
            os.close(fifo)
            os.close(read)

    def activate(self):
        self.mi("clusterer_shtag_set_active", "pair/1")

    def cut(self, cut):
        self.mi("clusterer_set_status", 1, 0 if cut else 1)

    def cdrs(self):
        """Call-ID to the acc_id of each line."""
        found = collections.defaultdict(list)
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            for line in f:
                if "ACC: call ended" in line:
                    found[re.search(r"call_id=([^;]*)", line)[1]].append(re.search(r"acc_id=([0-9a-f]*)", line)[1])
        return found


class Pair:
    def __init__(self, args, where, lifetime=3600, original=False, inside='$acc_extra(note) = "changed";'):
        self.inside = inside
        self.args, self.dir, self.lifetime, self.original = args, where, lifetime, original
        self.db, self.callee, self.phones = os.path.join(where, "acc.db"), free_port(), []
        os.makedirs(where)
        self.a, self.b = Node(self, "A", 1), Node(self, "B", 2)

    def other(self, node):
        return self.b if node is self.a else self.a

    def up(self):
        self.a.start()
        self.b.start()
        if not self.wait_until_linked():
            raise RuntimeError("the nodes do not find each other")
        self.a.activate()

    def wait_until_linked(self):
        """Both nodes hear each other. One that heard nobody takes itself for synchronised, too. The clusterer may stop pinging
        a node whose answer came sooner than it had noted the question, and has that one way only then: an operator
        would start it anew."""
        begun = time.time()
        while time.time() < begun + SETTLED:
            apart = [n for n in (self.a, self.b) if not re.search(r'"link_state":\s*"Up"', n.mi("clusterer_list"))]
            if not apart and all(re.search(r'"dialog-dlg-repl"[^}]*"Ok"', n.mi("clusterer_list_cap")) for n in (self.a, self.b)):
                return True
            if time.time() > begun + 8:
                for node in apart:
                    print(f"# {node.name} does not find the other node: its link is started anew", flush=True)
                    node.cut(True)
                    node.cut(False)
                time.sleep(4)
            time.sleep(0.2)
        return False

    def sipp(self, name, scenario, port, *more):
        path = os.path.join(self.dir, name + ".xml")
        with open(path, "w") as f:
            f.write(scenario)
        with open(os.path.join(self.dir, name + ".out"), "wb") as out:
            p = subprocess.Popen(["sipp", *more, "-sf", path, "-i", "127.0.0.1", "-p", str(port), "-nostdin", "-trace_logs", "-log_file",
                                  os.path.join(self.dir, name + ".log"), "-trace_err", "-error_file", os.path.join(self.dir, name + ".err")],
                                 cwd=self.dir, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
        self.phones.append(p)
        return p

    def call(self, bye_to, hold=HOLD, change=1, callee=CALLEE):
        self.sipp("callee", callee, self.callee, "-mp", str(free_port()))
        time.sleep(0.3)
        self.began = time.time()
        self.caller = self.sipp("caller", caller(bye_to.sip if bye_to else None, hold, change), free_port(), f"127.0.0.1:{self.a.sip}", "-m", str(CALLS), "-r", "20",
                                "-l", str(CALLS), "-mp", str(free_port()), "-timeout", "60", "-recv_timeout", "20000")

    def cut(self, cut):
        self.a.cut(cut)
        self.b.cut(cut)

    def b_takes_calls_for_lost(self):
        """Without a link, after a restart."""
        self.until(4)
        self.cut(True)
        self.b.end(signal.SIGTERM)
        self.b.start()
        # The node is alone: it waits twice as long.
        end = time.time() + SETTLED
        while {row[2] for row in self.rows()} != {"orphan"}:
            if time.time() > end:
                raise RuntimeError("B takes no call for lost")
            time.sleep(0.2)

    def until(self, seconds):
        time.sleep(max(0, self.began + seconds - time.time()))

    def close(self):
        for p in self.phones:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
            p.wait()
        for node in (self.a, self.b):
            if node.is_up():
                node.end(signal.SIGTERM)
            node.link.close()

    def answered(self):
        try:
            with open(os.path.join(self.dir, "caller.log")) as f:
                return set(re.findall(r"answered (\S+)", f.read()))
        except FileNotFoundError:
            return set()

    def rows(self):
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=10) as db:
            return db.execute("SELECT callid, note, end_cause FROM acc").fetchall()

    def verdict(self, doubles_allowed, ends=None, due=True):
        """What is wrong, after both nodes had every occasion to write; with `ends`, which causes SQL may have in the end."""
        for node in (self.a, self.b):
            if not node.is_up():
                node.start()
        for node in (self.b, self.a):
            # The link may have come back just now; a call of a node that was away is settled by asking.
            self.wait_until_linked()
            time.sleep(2 * ORPHAN + 4)
            node.end(signal.SIGTERM)
            node.start()
        self.wait_until_linked()
        # A BYE that came to a node which had not got its dialog yet ended nothing: the lifetime does, where the tag is.
        self.a.activate()
        # As long as calls may wait for a node that does not answer.
        answered, end = self.answered() if due else set(), time.time() + SETTLED + 10 * ORPHAN
        while time.time() < end and not answered <= {row[0] for row in self.rows()}:
            time.sleep(0.5)
        time.sleep(2)
        sql, wrong = collections.Counter(), collections.Counter()
        for call, note, _cause in self.rows():
            sql[call] += 1
            if note != "changed":
                wrong["other value"] += 1
        log = collections.defaultdict(list)
        for node in (self.a, self.b):
            for call, ids in node.cdrs().items():
                log[call] += ids
        wrong["lost in SQL"] = len(answered - set(sql))
        wrong["doubled in SQL"] = sum(n > 1 for n in sql.values())
        wrong["lost in the log"] = len(answered - set(log))
        wrong["other acc_id"] = sum(len(set(ids)) > 1 for ids in log.values())
        doubled = sum(len(ids) > 1 for ids in log.values())
        if not doubles_allowed:
            wrong["doubled in the log"] = doubled
        causes = collections.Counter(row[2] for row in self.rows())
        wrong["other ends"] = sum(n for cause, n in causes.items() if ends and cause not in ends)
        wrong["crashes at a stop"] = self.a.crashes + self.b.crashes
        wrong["not due"] = 0 if due else len(sql) + len(log)
        # A round without its calls shows nothing, such as when a port of a phone was taken.
        wrong["not answered"] = CALLS - len(self.answered()) if due else 0
        return len(self.answered()), doubled, dict(causes), {k: v for k, v in wrong.items() if v}


SITUATIONS = {}


def situation(**options):
    def add(play):
        SITUATIONS[play.__name__.replace("_", " ")] = (play, options)
        return play
    return add


@situation()
def the_node_dies_and_comes_back(p):
    p.call(p.b)
    p.until(4)
    p.a.end(signal.SIGKILL)
    p.b.activate()
    p.caller.wait()
    p.a.start()


@situation()
def the_address_moves_before_the_tag(p):
    p.call(p.b)
    p.caller.wait()
    p.b.activate()


@situation()
def the_tag_moves_in_good_order(p):
    p.call(p.b)
    p.until(4)
    p.b.activate()
    p.caller.wait()


@situation()
def calls_end_while_a_node_is_down(p):
    p.call(p.b)
    p.until(4)
    p.b.activate()
    p.a.end(signal.SIGTERM)
    p.caller.wait()
    p.a.start()


@situation(ends={"bye"})
def a_node_is_stopped_while_byes_wait_for_their_replies(p):
    """It has no connection to the other one any more when it writes the CDRs."""
    p.call(p.b, callee=SILENT)
    p.until(HOLD + 1.5)
    p.b.end(signal.SIGTERM)
    p.b.start()


@situation(lifetime=7)
def the_lifetime_ends_on_the_other_node(p):
    p.call(None)
    p.until(4)
    p.a.end(signal.SIGKILL)
    p.b.activate()
    p.until(12)
    p.a.start()


@situation()
def both_die_one_after_the_other(p):
    p.call(None)
    p.until(4)
    p.a.end(signal.SIGKILL)
    p.b.activate()
    p.until(7)
    p.b.end(signal.SIGKILL)
    p.b.start()


@situation(lifetime=11, doubles=True)
def the_link_is_cut_and_both_end_the_calls(p):
    p.call(p.b)
    p.until(4)
    p.cut(True)
    p.b.activate()
    p.caller.wait()
    p.until(16)
    p.cut(False)


@situation(lifetime=34)
def the_calls_end_while_the_link_is_cut(p):
    """It is back before the lifetime ends on the node that has heard of no end."""
    p.call(p.b)
    p.until(4)
    p.cut(True)
    p.caller.wait()
    p.until(12)
    p.cut(False)
    p.wait_until_linked()
    p.until(38)


@situation()
def the_other_node_hears_and_cannot_answer(p):
    """The link works in one direction only: B takes A for down, and A does not know it."""
    p.call(p.b)
    p.until(4)
    p.a.end(signal.SIGTERM)
    p.b.link.drop_pongs = True
    p.until(5.5)
    p.a.start()
    p.caller.wait()
    p.until(6 + 4 * ORPHAN)
    p.b.link.drop_pongs = False


@situation(doubles=True, ends={"bye"})
def a_node_without_a_link_takes_calls_for_lost(p):
    """The other one goes on with them, and hears of it when the link is back: the real ends take the places in SQL."""
    p.call(p.a, hold=50)
    p.b_takes_calls_for_lost()
    p.cut(False)
    p.wait_until_linked()
    p.caller.wait()


@situation(doubles=True, ends={"bye"})
def a_node_that_took_calls_for_lost_starts_once_more(p):
    """What it then remembers of its own guesses ends no call that the other node brings: the BYE comes to it."""
    p.call(p.b, hold=50)
    p.b_takes_calls_for_lost()
    # Its journal still has these ends then.
    p.b.end(signal.SIGKILL)
    p.b.start()
    p.cut(False)
    p.wait_until_linked()
    p.b.activate()
    p.caller.wait()


@situation()
def values_are_set_while_the_link_is_cut(p):
    """The other node has them some seconds after the link is back, although no request comes inside the calls."""
    p.call(p.b, hold=30, change=6)
    p.until(4)
    p.cut(True)
    p.until(9)
    p.cut(False)
    p.wait_until_linked()
    time.sleep(10)
    p.a.end(signal.SIGKILL)
    p.b.activate()
    p.caller.wait()
    p.a.start()


@situation(inside="drop_accounting();", due=False)
def accounting_is_dropped_before_the_node_dies(p):
    p.call(p.b)
    p.until(4)
    p.a.end(signal.SIGKILL)
    p.b.activate()
    p.caller.wait()


def soak(args, where, seed):
    """A round of random moves."""
    r = random.Random(seed)
    ends = r.random() < 0.3
    pair = Pair(args, where, lifetime=7 if ends else LIFETIME)
    home = r.choice([pair.a, pair.b])
    # Moves between the ends of the calls' set-up and after their BYE; the node with the address is up when they hang up.
    moves = []
    for node in (pair.a, pair.b):
        if r.random() < 0.5:
            down, away = r.uniform(3, 7), r.uniform(0.5, 3)
            if node is home and down + away > HOLD - 1.5:
                away = HOLD - 1.5 - down
            how = r.choice([signal.SIGKILL, signal.SIGTERM])
            moves.append((down, f"{node.name} gets {how.name}", lambda n=node, h=how: n.end(h)))
            moves.append((down + max(away, 0.5), f"{node.name} starts", node.start))
    at = r.uniform(2.5, HOLD + 2)
    moves.append((at, f"the tag moves to {home.name}", home.activate))
    cut = r.random() < 0.3
    if cut:
        begin = r.uniform(3, HOLD)
        moves.append((begin, "the link is cut", lambda: pair.cut(True)))
        moves.append((begin + r.uniform(1, 6), "the link is back", lambda: pair.cut(False)))
    down_at_the_end = any("gets" in what for _, what, _ in moves)
    try:
        pair.up()
        pair.call(None if ends else home)
        for when, what, move in sorted(moves, key=lambda m: m[0]):
            pair.until(when)
            move()
        pair.until(HOLD + 7)
        answered, doubled, causes, wrong = pair.verdict(cut or down_at_the_end)
        plan = "; ".join(f"{when:.1f} {what}" for when, what, _ in sorted(moves, key=lambda m: m[0]))
        print(f"seed {seed}: {answered} answered, {doubled} doubled in the log, ends {causes}, {'lifetime' if ends else 'BYE at ' + home.name}; {plan}"
              f"{'; WRONG: ' + str(wrong) if wrong else ''}", flush=True)
        return answered, doubled, wrong
    finally:
        pair.close()


def price(args, where, original):
    """Packets, bytes and CPU for a call, its set-up, a changed value and its end at one node."""
    pair = Pair(args, where, original=original)
    try:
        if original:
            with sqlite3.connect(pair.db) as db:
                for part in "standard", "acc":
                    with open(os.path.join(os.environ["OPENSIPS_PREFIX"], "share", "opensips", "sqlite", part + "-create.sql")) as f:
                        db.executescript(f.read())
                db.execute("ALTER TABLE acc ADD note VARCHAR(64)")
        pair.up()
        time.sleep(3)
        nodes = pair.a, pair.b
        before = [n.cpu() for n in nodes]
        for node in nodes:
            node.link.seen.clear()
        pair.sipp("callee", CALLEE, pair.callee, "-mp", str(free_port()))
        time.sleep(0.3)
        begun = time.time()
        pair.sipp("caller", caller(pair.a.sip, 5), free_port(), f"127.0.0.1:{pair.a.sip}", "-m", str(args.price), "-r", "50", "-l", "1000",
                  "-mp", str(free_port()), "-timeout", "300").wait()
        time.sleep(4)
        took = time.time() - begun
        # What they would have used without calls counts for both alike.
        cpu = [(n.cpu() - b) / args.price * 1e6 for n, b in zip(nodes, before)]
        calls = len(pair.answered())
        seen = {name: [sum(n.link.seen[name][i] for n in nodes) / args.price for i in (0, 1)] for n in nodes for name in list(n.link.seen)}
        with sqlite3.connect(pair.db) as db:
            rows = db.execute("SELECT COUNT(*), COUNT(DISTINCT callid), SUM(note = 'changed') FROM acc").fetchone()
        said = "; ".join(f"{name} {packets:.2f} packets, {size:.0f} bytes" for name, (packets, size) in sorted(seen.items()) if name != Link.PONG[0].decode())
        print(f"{'original' if original else 'ours':8}: {calls} calls in {took:.0f} s, rows {rows}; a call: {said}; CPU {cpu[0]:.0f} us on A, {cpu[1]:.0f} us on B",
              flush=True)
    finally:
        pair.close()


def main():
    global OPENSIPS, MODULES
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default=os.path.join(HERE, "../../target/debug/libacc.so"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", help="leave everything in this directory")
    parser.add_argument("--price", type=int, metavar="N", help="play N calls, and say what they cost")
    parser.add_argument("--only", help="a part of a situation's name; no rounds then")
    args = parser.parse_args()
    args.module = os.path.abspath(args.module)
    prefix = os.environ.get("OPENSIPS_PREFIX")
    if not prefix:
        print("skipped: OPENSIPS_PREFIX names no OpenSIPS")
        return 0
    OPENSIPS = os.path.join(prefix, "sbin", "opensips")
    found = glob.glob(os.path.join(prefix, "lib*", "opensips", "modules", "clusterer.so"))
    if not found or not shutil.which("sipp"):
        print("skipped: no module clusterer, or no SIPp")
        return 0
    MODULES = os.path.dirname(found[0])
    base = os.path.abspath(args.keep) if args.keep else tempfile.mkdtemp(prefix="acc-cluster-")
    failed = 0
    total = collections.Counter()
    try:
        if args.price:
            for n in range(6):
                price(args, os.path.join(base, f"price-{n}"), n % 2 == 0)
            return 0
        for name, (play, options) in SITUATIONS.items() if args.seed is None else ():
            if args.only and args.only not in name:
                continue
            changed = {key: options[key] for key in ("lifetime", "inside") if key in options}
            pair = Pair(args, os.path.join(base, name.replace(" ", "_")), **changed)
            try:
                pair.up()
                play(pair)
                answered, doubled, causes, wrong = pair.verdict(options.get("doubles", False), options.get("ends"), options.get("due", True))
                if answered != CALLS:
                    wrong["not answered"] = CALLS - answered
            finally:
                pair.close()
            failed += bool(wrong)
            print(f"{'not ok' if wrong else 'ok'} - {name}: {answered} calls, ends {causes}" + (f", {doubled} doubled in the log" if doubled else "")
                  + (f"; WRONG: {wrong}" if wrong else ""), flush=True)
        first = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 31)
        for n in range(0 if args.only else args.rounds):
            answered, doubled, wrong = soak(args, os.path.join(base, f"round-{first + n}"), first + n)
            total.update(calls=answered, doubled_in_log=doubled, lost_in_sql=wrong.get("lost in SQL", 0), doubled_in_sql=wrong.get("doubled in SQL", 0))
            failed += bool(wrong)
    finally:
        if not args.keep:
            shutil.rmtree(base, ignore_errors=True)
    print(f"rounds: {dict(total)}; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
