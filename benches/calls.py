"""Calls of SIPp through a server, and the processor time that they take there: for scripts/compare-kamailio and benches/host.py."""
import collections
import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIPP = ROOT / "tests/kamailio/sipp"
TICK = 1 / os.sysconf("SC_CLK_TCK")


def sipp(directory, scenario, port, log, *arguments):
    """A phone on this port, which lists its calls in the file `log`. Its scenario is one of SIPP, or a path."""
    path = SIPP / f"{scenario}.xml" if isinstance(scenario, str) else scenario
    command = ["sipp", "-sf", path, "-i", "127.0.0.1", "-p", port, "-nostdin",
               "-default_behaviors", "all,-abortunexp", "-trace_logs", "-log_file", log, *arguments]
    with open(directory / f"sipp-{path.stem}.out", "w") as out:
        return subprocess.Popen([str(c) for c in command], cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def listed(directory, log, what):
    """Call-IDs that a phone listed."""
    path = directory / log
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[-1] for line in lines if f"{what} " in line}


def stop(process):
    """Ends a process, which leads a session of its own, with its children, also those that hang."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def exact_time(process):
    """Seconds of the threads that a process has, to the ns, where the kernel says it: a tick is the time of several calls."""
    used = 0
    for task in (process / "task").iterdir():
        try:
            used += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return used / 1e9


def processor_time(session):
    """Seconds of all processes of a session by their names; those of children that have ended count for their parents."""
    used = collections.Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, fields = (process / "stat").read_text().split("(", 1)[1].rsplit(") ", 1)
            fields = fields.split()
            if int(fields[3]) != session:
                continue
            itself, ended = (sum(map(int, fields[i:i + 2])) * TICK for i in (11, 13))
            used[name] += max(itself, exact_time(process)) + ended
        except OSError:
            continue
    return used
