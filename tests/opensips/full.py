#!/usr/bin/env python3
"""A stranger fills the memory of contexts, on an installed OpenSIPS.

    OPENSIPS_PREFIX=/usr/local tests/opensips/full.py [--module FILE] [--arena MIB]

Ten calls are up. Then come huge INVITEs that nobody answers, until one is refused, and small ones, until one is refused too:
all that new requests may take is taken (by default of 16 MiB; of 1024, the default of arena_size, with 4 GB of memory and some
minutes). Each call that was up ends with its one CDR, its own values and end. When the stranger's requests are over nothing is
left of them, and calls with small and huge values are accounted again. Says "skipped" without an installed server."""
import argparse
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time

from server import PROXY, Failed, Installation, Stage, free_ports, perform

CONFIG = """\
log_level=2
stderror_enabled=yes
syslog_enabled=no
udp_workers=4
""" + PROXY + """\
# The stranger's requests stay until the memory is full.
modparam("tm", "fr_timeout", {patience})
loadmodule "mi_fifo.so"
modparam("mi_fifo", "fifo_name", "{dir}/fifo")
modparam("mi_fifo", "reply_dir", "{dir}/")
loadmodule "dialog.so"
loadmodule "{module}"
modparam("acc", "journal_dir", "{dir}/journal")
modparam("acc", "db_url", "sqlite://{dir}/acc.sqlite")
modparam("acc", "arena_size", {arena})
modparam("acc", "extra_fields", "db: agent; end_cause; end_side")
route {{
	if (has_totag()) {{
		if (loose_route())
			t_relay();
		exit;
	}}
	if (!is_method("INVITE"))
		exit;
	record_route();
	$acc_extra(agent) = $ua;
	if (!do_accounting("db", "cdr")) {{
		send_reply(503, "Not accounted");
		exit;
	}}
	$du = "sip:127.0.0.1:" + $rU;
	t_relay();
	exit;
}}
"""
REFUSED = "shared memory for calls in progress is full"


def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    return s


class Callee(threading.Thread):
    """Answers INVITE and BYE."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = udp()
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        while True:
            request, peer = self.socket.recvfrom(65536)
            if request.startswith((b"INVITE", b"BYE")):
                kept = re.findall(r"^(?:Via|Record-Route|From|To|Call-ID|CSeq): .*?(?=\r$)", request.decode(), re.M)
                kept = [h if "tag=" in h or not h.startswith("To:") else h + ";tag=callee" for h in kept]
                answer = ["SIP/2.0 200 OK", *kept, f"Contact: <sip:callee@127.0.0.1:{self.port}>", "Content-Length: 0", "", ""]
                self.socket.sendto("\r\n".join(answer).encode(), peer)


class Call:
    def __init__(self, proxy, callee, callid, agent):
        self.socket, self.proxy, self.callid, self.agent = udp(), ("127.0.0.1", proxy), callid, agent
        self.port, self.callee = self.socket.getsockname()[1], callee
        self.uri, self.to, self.routes = f"sip:{callee}@127.0.0.1:{proxy}", f"<sip:{callee}@127.0.0.1>", []

    def message(self, method, cseq, tag="caller"):
        return "\r\n".join([
            f"{method} {self.uri} SIP/2.0", f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{method}{self.callid}", *self.routes,
            f"From: <sip:caller@127.0.0.1>;tag={tag}", f"To: {self.to}", f"Call-ID: {self.callid}", f"CSeq: {cseq} {method}",
            f"Contact: <sip:caller@127.0.0.1:{self.port}>", "Max-Forwards: 50", f"User-Agent: {self.agent}", "Content-Length: 0", "", ""]).encode()

    def ask(self, method, cseq):
        """Sends until the answer comes, as over UDP one has to."""
        self.socket.settimeout(0.5)
        for _ in range(120):
            self.socket.sendto(self.message(method, cseq), self.proxy)
            try:
                while True:
                    reply = self.socket.recv(65536).decode()
                    if int(reply[8:11]) >= 200 and f"CSeq: {cseq} " in reply:
                        if not reply.startswith("SIP/2.0 200"):
                            raise Failed(f"{self.callid}: {reply.splitlines()[0]}")
                        return reply
            except TimeoutError:
                pass
        raise Failed(f"{self.callid}: no answer to {method}")

    def begin(self):
        header = lambda name, of: re.findall(rf"^{name}: (.*?)\r$", of, re.M)
        answer = self.ask("INVITE", 1)
        [contact], [self.to] = header("Contact", answer), header("To", answer)
        self.uri, self.routes = contact.strip("<>"), [f"Route: {r}" for r in reversed(header("Record-Route", answer))]
        self.socket.sendto(self.message("ACK", 1), self.proxy)

    def end(self):
        self.ask("BYE", 2)


class Server:
    mi = Stage.mi

    def __init__(self, installation, children, d, arena):
        self.dir, self.port = d, free_ports(1)
        with open(f"{d}/opensips.cfg", "w", encoding="ascii") as f:
            f.write(CONFIG.format(port=self.port, modules=installation.mpath, module=installation.module, dir=d, arena=arena,
                                  patience=20 if arena < 100 else 60))
        # The server keeps each request several times.
        room = str(max(256, 4 * arena))
        with open(f"{d}/log", "wb") as log:
            self.process = children.start([installation.binary, "-F", "-f", f"{d}/opensips.cfg", "-w", d, "-m", room], stdout=log, stderr=log)
        self.wait("its start", lambda: self.process.poll() is not None or "result" in self.mi("which"))

    def status(self, counter):
        try:
            return json.loads(self.mi("acc_status"))["result"][counter]
        except (ValueError, KeyError):
            return None

    def wait(self, what, condition):
        for _ in range(4000):
            if condition():
                return
            time.sleep(0.1)
        raise Failed(f"never: {what}")

    def rows(self, like):
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.dir}/acc.sqlite?mode=ro", uri=True)) as db:
                return sorted(db.execute("SELECT callid, agent, end_cause, end_side FROM acc WHERE callid LIKE ?", (like,)).fetchall())
        except sqlite3.OperationalError:
            return []

    def flood(self, name, agent, tag):
        """Requests that nobody answers, until one is refused; how many were sent."""
        silent = udp()
        stranger = Call(self.port, silent.getsockname()[1], "", "x" * agent)
        sent, before, refused = 0, self.status("arena_full"), False
        while not refused:
            for _ in range(200):
                sent += 1
                stranger.callid = f"{name}-{sent}"
                stranger.socket.sendto(stranger.message("INVITE", 1, "t" * tag + str(sent)), stranger.proxy)
                time.sleep(0.0002)
            refused = (self.status("arena_full") or 0) > before
        return sent


def play(o, prefix, children, d):
    server = Server(Installation(prefix, os.path.abspath(o.module)), children, d, o.arena)
    callee = Callee()
    calls = lambda name, agents: [Call(server.port, callee.port, f"{name}-{i}", agent) for i, agent in enumerate(agents)]

    def cdrs_of(name, of):
        want = sorted((c.callid, c.agent, "bye", "caller") for c in of)
        server.wait(f"the CDRs of {name}", lambda: len(server.rows(f"{name}-%")) >= len(want))
        if server.rows(f"{name}-%") != want:
            raise Failed(f"{name}: {str(server.rows(f'{name}-%'))[:2000]}")

    up = calls("up", [f"agent {i}" for i in range(10)])
    for call in up:
        call.begin()
    sent = server.flood("huge", 27000, 25000), server.flood("small", 1500, 1500)
    full = server.status("contexts_bytes")
    for call in up:
        call.end()
    cdrs_of("up", up)
    server.wait("the end of the stranger's requests", lambda: server.status("contexts_bytes") == 0)
    again = calls("again", ["y" * n for n in (10, 200, 5000, 20000)])
    for call in again:
        call.begin()
        call.end()
    cdrs_of("again", again)
    if server.rows("huge-%") or server.rows("small-%"):
        raise Failed("a request that nobody answered has a record")
    lost = {c: server.status(c) for c in ("panics", "journal_lost", "clipped")}
    if any(lost.values()):
        raise Failed(str(lost))
    with open(f"{d}/log", encoding="utf-8", errors="replace") as log:
        said = [line for line in log if REFUSED in line]
    if not said or not all("(Call-ID " in line for line in said):
        raise Failed(f"{len(said)} lines say that the memory is full: {said[:1]}")
    server.wait("the end of all contexts", lambda: server.status("contexts_bytes") == 0)
    server.process.terminate()
    if server.process.wait():
        raise Failed(f"the server ended with {server.process.returncode}")
    return f"{sent[0]} huge and {sent[1]} small requests, {full} bytes of contexts, {len(said)} lines, {len(up)} calls that were up have their CDRs"


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default=os.path.join(here, "../../target/release/libacc.so"))
    parser.add_argument("--arena", type=int, default=16, metavar="MIB", help="arena_size")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration, log and database there")
    o = parser.parse_args()
    return perform(f"full memory of contexts, arena_size {o.arena}", play, o, ["dialog"])


if __name__ == "__main__":
    sys.exit(main())
