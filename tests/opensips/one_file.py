#!/usr/bin/env python3
"""Dialogs of the server and our records in one SQLite file, on an installed OpenSIPS, with SIPp.

    OPENSIPS_PREFIX=/usr/local tests/opensips/one_file.py [--module FILE] [--calls N] [--rate N]

The dialog module with db_mode 1 writes to the file in the SIP worker at the beginning, the answer and the end of each call, and the
delivery writes its rows beside it: each waits for the other's lock. Every call has to succeed, with its dialog gone from the
file and one CDR in it; nothing is a dead letter. Prints how long the records took behind the last call and what SIPp had to
repeat. Says "skipped" without an installed server, its modules dialog and db_sqlite, or SIPp."""
import argparse
import contextlib
import csv
import glob
import json
import os
import sqlite3
import subprocess
import sys
import time

from server import PROXY, Failed, Installation, free_ports, perform

SCENARIOS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../soak")
CONFIG = """\
log_level=3
stderror_enabled=yes
syslog_enabled=no
udp_workers=3
""" + PROXY + """\
loadmodule "db_sqlite.so"
loadmodule "dialog.so"
modparam("dialog", "db_url", "sqlite://{dir}/all.sqlite")
modparam("dialog", "db_mode", 1)
loadmodule "{module}"
modparam("acc", "journal_dir", "{dir}/journal")
modparam("acc", "db_url", "sqlite://{dir}/all.sqlite")
modparam("acc", "extra_fields", "db: acc_id")
route {{
	if (has_totag()) {{
		if (loose_route())
			t_relay();
		exit;
	}}
	if (!is_method("INVITE"))
		exit;
	record_route();
	do_accounting("db", "cdr");
	$du = "sip:127.0.0.1:{callee}";
	t_relay();
	exit;
}}
"""


def ask(path, sql):
    """Rows; none while the file is locked or the table is not there."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def wait(what, condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise Failed(f"never: {what}")


def play(o, prefix, children, d):
    installation = Installation(prefix, os.path.abspath(o.module))
    port = free_ports(2)
    path = f"{d}/all.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        for table in ("standard", "dialog"):
            with open(os.path.join(installation.schemas, table + "-create.sql"), encoding="utf-8") as f:
                db.executescript(f.read())
    with open(f"{d}/opensips.cfg", "w", encoding="ascii") as f:
        f.write(CONFIG.format(port=port, callee=port + 1, modules=installation.mpath, module=installation.module, dir=d))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": d}
    with open(f"{d}/log", "wb") as log:
        server = children.start([installation.binary, "-F", "-f", f"{d}/opensips.cfg", "-w", d, "-m", "256"], stdout=log, stderr=log)
    wait("the table of the records", lambda: server.poll() is not None or ask(path, "SELECT name FROM sqlite_master WHERE name = 'acc'"))
    phone = lambda name, *args: children.start(["sipp", "-sf", os.path.join(SCENARIOS, name), "-i", "127.0.0.1", "-nostdin", *args], **quiet)
    phone("callee.xml", "-p", str(port + 1))
    caller = phone("caller.xml", "-cid_str", "%u-%p", "-m", str(o.calls), "-r", str(o.rate), "-trace_stat", "-stf", f"{d}/calls.csv", "-fd", "1", f"127.0.0.1:{port}")
    if caller.wait() or server.poll() is not None:
        raise Failed(f"SIPp ended with {caller.returncode}, the server with {server.returncode}")
    begin = time.monotonic()
    wait("all CDRs", lambda: ask(path, "SELECT count(*) FROM acc") == [(o.calls,)])
    behind = time.monotonic() - begin
    wait("the end of all dialogs", lambda: ask(path, "SELECT count(*) FROM dialog") == [(0,)])
    server.terminate()
    if server.wait():
        raise Failed(f"the server ended with {server.returncode}")
    found = ask(path, "SELECT count(*), count(DISTINCT callid), count(DISTINCT acc_id), sum(ms_duration >= 50) FROM acc WHERE sip_code = '200'")
    if found != [(o.calls,) * 4]:
        raise Failed(f"records, calls, acc_id, long enough: {found}")
    if glob.glob(f"{d}/journal/dead-*"):
        raise Failed("there are dead letters")
    with open(f"{d}/calls.csv", encoding="ascii") as f:
        last = list(csv.DictReader(f, delimiter=";"))[-1]
    if (int(last["SuccessfulCall(C)"]), int(last["FailedCall(C)"])) != (o.calls, 0):
        raise Failed(f"successful {last['SuccessfulCall(C)']}, failed {last['FailedCall(C)']}")
    return json.dumps({"calls": o.calls, "seconds from the last call to the last CDR": round(behind, 1), "repeated by SIPp": int(last["Retransmissions(C)"])})


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default=os.path.join(here, "../../target/release/libacc.so"))
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--rate", type=int, default=40, help="calls a second")
    parser.add_argument("--keep", metavar="DIR", help="leave configuration, log and database there")
    o = parser.parse_args()
    return perform("dialogs and records in one file", play, o, ["dialog", "db_sqlite"], ["sipp"])


if __name__ == "__main__":
    sys.exit(main())
