"""Plays tests/opensips/scenarios on an installed OpenSIPS and compares the records; see scripts/conform-opensips.

A scenario is a table of a TOML file, its name FILE/TABLE:
    about             one sentence
    caller, callee, callee2, callee3   steps of the phones, see wire.py
    start, before, within, cancel, failure, reply   what the script does there, see opensips.cfg
    core              core settings
    routes            further routes of the script
    says              what the script must print: the log lines that begin with "route ", in their order,
                      the same line several times in a row once
    legs              true: leg fields are declared
    flags             message flags ACC, MISSED, FAILED and CDR account to all backends, with these extras: { tag = "$variable" };
                      instead of the extra fields, unless `fields` is true
    flags_bye         extras that are read on the BYE
    flag_multi_leg_info, flag_multi_leg_bye_info   tags of legs, whose values are those of the AVPs of these names
    params, dialog    more modparam lines
    server_database   text, flatstore or virtual: SQL goes through the server's module of that name instead of into
                      SQLite
    dialog_database   dialogs are kept in SQLite: db_mode 1 (true) or 2
    tables            further SQL tables that are read
    during            things done meanwhile (the answer to an MI command, without blanks, has every pattern of
                      `answer`; "sums" looks at statistics): { at = seconds, do = "mi" | "sums" | "burst" (see burst.py) | "restart" | "kill" | "kill-delivery" }
    kamailio          why Kamailio cannot play it, or a table of what is different there, see kamailio.py
    tolerance         other tolerances than those of records.py
    expect            the records, in the order in which one backend gets them. kind: transaction, missed, manual, cdr.
                      ack; of message flags, unless its `shape` is "context"; `timed` is a missed one with both times.
                      What is not said is an INVITE of ann-1 to desk-1 with 200, created at 0, setup 0 s. `setup` (s) is
                      from `created` to the reply, `time` their sum; `ms` the talk of a CDR; a CDR ends by a `bye`
                      of the `caller`, unless `end_cause` and `end_side` are given; `bare` is a manual record without
                      context; `inside` a request inside the call; `backends` those that get it, all by default.
                      "*" is any text.
"""
import argparse
import concurrent.futures
import difflib
import fnmatch
import glob
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib

import records
from kamailio import Kamailio
from server import Children, Failed, Installation

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = {"about", "caller", "callee", "callee2", "callee3", "start", "before", "within", "cancel", "failure", "reply",
        "core", "routes", "says", "legs", "flags", "fields", "flags_bye", "flag_multi_leg_info", "flag_multi_leg_bye_info", "params", "dialog", "dialog_database", "server_database", "tables", "during",
        "tolerance", "expect", "kamailio"}


def scenarios():
    for path in sorted(glob.glob(os.path.join(HERE, "scenarios", "*.toml"))):
        with open(path, "rb") as f:
            for name, sc in tomllib.load(f).items():
                unknown = sc.keys() - KEYS
                if unknown:
                    raise SystemExit(f"{path}: {name}: unknown {', '.join(unknown)}")
                yield f"{os.path.basename(path)[:-5]}/{name}", sc


def play(name, sc, installation, children, root):
    """The differences of each backend; what concerns them all stands at the first."""
    directory = os.path.join(root, name.replace("/", "-"))
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    stage = installation.stage(name, sc, installation, children, directory)
    want = {b: records.expected(sc, b, stage.callid) for b in records.BACKENDS}
    have = {b: [] for b in records.BACKENDS}
    try:
        stage.play()
        end = time.monotonic() + 5
        while time.monotonic() < end and not children.closed:  # records may come after the last SIP message
            have = stage.records()
            if all(len(have[b]) >= len(want[b]) for b in want):
                break
            time.sleep(0.1)
        time.sleep(0.4)                 # and there may be one too many
        stage.stop_server()
        have = stage.records()
        stage.notes += [x for x in stage.log_lines() if "panic in" in x]
        if "says" in sc:
            stage.notes += differences(sc["says"], stage.said())
    except Failed as e:
        return not_played(str(e))
    finally:
        stage.close()
    lines = not_played(*stage.notes) if stage.notes else {b: [] for b in want}
    for b in want:
        lines[b] += records.compare(want[b], have[b], stage.t0, sc.get("tolerance", {}), b in ("log", "evi"))
    return lines


def differences(want, have):
    """Lines that are missing (-) and lines that are too many (+)."""
    return [x for x in difflib.ndiff(want, have) if x[0] in "-+"]


def not_played(*why):
    first, *others = records.BACKENDS
    return {first: list(why), **{b: [f"the call failed, see {first}"] for b in others}}


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    ap = argparse.ArgumentParser(prog="conform-opensips")
    ap.add_argument("--module", metavar="FILE", default=os.path.join(HERE, "../../target/release/libacc.so"))
    ap.add_argument("--jobs", type=int, default=2, metavar="N", help="scenarios at the same time; they mostly wait")
    ap.add_argument("--server", choices=["opensips", "kamailio"], default="opensips", help="that of OPENSIPS_PREFIX, or Debian's Kamailio")
    ap.add_argument("--only", metavar="GLOB", default="*", help="scenarios with such a name")
    ap.add_argument("--keep", metavar="DIR", help="leave configurations, logs and traces there")
    o = ap.parse_args()
    module = os.path.realpath(o.module)
    if not os.path.exists(module):
        raise SystemExit(f"{module} does not exist: cargo build --release, or --module FILE")
    of_kamailio = o.server == "kamailio"
    installation = Kamailio(module) if of_kamailio else Installation(os.path.realpath(os.environ["OPENSIPS_PREFIX"]), module)
    todo = [(n, sc) for n, sc in scenarios() if fnmatch.fnmatchcase(n, o.only)]
    if not todo:
        raise SystemExit(f"no scenario {o.only}")
    root = os.path.abspath(o.keep) if o.keep else tempfile.mkdtemp(prefix="acc-e2e-")
    children, out, count = Children(), threading.Lock(), {"passed": 0, "failed": 0, "skipped": 0}

    def one(name, sc):
        sc, why = installation.scenario(sc)
        lacking = why or (installation.lacks(sc) and f"the server has no {installation.lacks(sc)}")
        if lacking:
            lines = {b: None for b in records.BACKENDS}
        else:
            try:
                lines = play(name, sc, installation, children, root)
            except Exception as e:
                lines = not_played(f"{type(e).__name__}: {e}")
            if children.closed:
                return
        with out:
            for backend, differences in lines.items():
                if differences is None:
                    print(f"skipped - {name} {backend}: {lacking}")
                    count["skipped"] += 1
                    continue
                count["failed" if differences else "passed"] += 1
                print(f"{'not ok' if differences else 'ok'} - {name} {backend}")
                for line in differences:
                    print("    " + line)
            sys.stdout.flush()

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, interrupt)
    pool = concurrent.futures.ThreadPoolExecutor(max(1, o.jobs))
    try:
        # the longest first
        todo.sort(key=lambda t: -sum(int(s.split()[1]) for s in t[1]["caller"] if s.startswith("wait")))
        for future in [pool.submit(one, n, sc) for n, sc in todo]:
            future.result()
    except KeyboardInterrupt:
        print("interrupted")
        count["failed"] += 1
    finally:
        children.close()
        pool.shutdown(cancel_futures=True)
        if not o.keep:
            shutil.rmtree(root, ignore_errors=True)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
