#!/usr/bin/env python3
"""A call that another module answers and ends, on an installed OpenSIPS, with SIPp.

    OPENSIPS_PREFIX=/usr/local tests/opensips/b2b.py [--module FILE]

b2b_init_request() after do_accounting() with the flag cdr: the BYE never reaches the dialog, whose lifetime is four seconds
here. Such a call has the record of its answer at once, and no CDR, neither then nor later; one that is proxied has its CDR.
Says "skipped" without an installed server, its modules b2b_entities and b2b_logic, or SIPp."""
import argparse
import glob
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

from server import PROXY, free_ports

LIFETIME = 4
CONFIG = """\
log_level=3
stderror_enabled=yes
syslog_enabled=no
udp_workers=3
""" + PROXY + """\
loadmodule "b2b_entities.so"
loadmodule "b2b_logic.so"
loadmodule "dialog.so"
modparam("dialog", "default_timeout", {lifetime})
loadmodule "{module}"
modparam("acc", "journal_dir", "{dir}/journal")
modparam("acc", "db_url", "sqlite://{dir}/acc.sqlite")
route {{
	if (has_totag()) {{
		if (loose_route())
			t_relay();
		exit;
	}}
	if (!is_method("INVITE"))
		exit;
	do_accounting("db", "cdr");
	if ($rU == "proxied") {{
		record_route();
		$du = "sip:127.0.0.1:{callee}";
		t_relay();
		exit;
	}}
	$ru = "sip:callee@127.0.0.1:{callee}";
	b2b_init_request("top hiding");
	exit;
}}
"""


def rows(path):
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return db.execute("SELECT callid, sip_code, ms_duration FROM acc").fetchall()
    except sqlite3.OperationalError:
        return []


def wait(what, condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise SystemExit(f"not ok - never: {what}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default=os.path.join(here, "../../target/release/libacc.so"))
    module = os.path.abspath(parser.parse_args().module)
    prefix = os.environ.get("OPENSIPS_PREFIX", "")
    found = glob.glob(f"{prefix}/lib*/opensips/modules/b2b_logic.so") if prefix else []
    if not found or not shutil.which("sipp"):
        print("skipped: no installed OpenSIPS with b2b_logic (OPENSIPS_PREFIX), or no SIPp")
        return 0
    with tempfile.TemporaryDirectory(prefix="acc-b2b-") as d:
        port, callee = free_ports(1), free_ports(1)
        os.mkdir(f"{d}/journal", 0o700)
        with open(f"{d}/opensips.cfg", "w", encoding="ascii") as f:
            f.write(CONFIG.format(port=port, callee=callee, modules=os.path.dirname(found[0]), module=module, dir=d, lifetime=LIFETIME))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        log = open(f"{d}/log", "wb")
        server = subprocess.Popen([f"{prefix}/sbin/opensips", "-F", "-f", f"{d}/opensips.cfg"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        phone = subprocess.Popen(["sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", str(callee), "-nostdin"], cwd=d, **quiet)
        try:
            wait("the server", lambda: b"listening" in open(f"{d}/log", "rb").read().lower() or os.path.exists(f"{d}/acc.sqlite"))
            for user in ("b2b", "proxied"):
                call = ["sipp", "-sn", "uac", "-i", "127.0.0.1", "-s", user, "-m", "1", "-d", "400", "-cid_str", f"{user}-%u", "-nostdin", f"127.0.0.1:{port}"]
                if subprocess.run(call, cwd=d, timeout=30, check=False, **quiet).returncode:
                    raise SystemExit(f"not ok - the call to {user}: {open(f'{d}/log', encoding='utf-8', errors='replace').read()[-2000:]}")
            of = lambda user: [r[1:] for r in rows(f"{d}/acc.sqlite") if r[0].startswith(user)]
            wait("the record of the answer", lambda: of("b2b") == [("200", 0)])
            # Behind the lifetime of both dialogs: SIPp's BYE has no route, so that ends the proxied call. The server counts
            # whole seconds.
            wait("the CDR of the proxied call", lambda: [r for r in of("proxied") if r[1] >= (LIFETIME - 1) * 1000])
            time.sleep(2)
            if of("b2b") != [("200", 0)]:
                raise SystemExit(f"not ok - {rows(f'{d}/acc.sqlite')}")
        finally:
            phone.kill()
            server.terminate()
            server.wait()
    print("ok - a call that another module answers and ends")
    return 0


if __name__ == "__main__":
    sys.exit(main())
