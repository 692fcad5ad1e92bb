"""Records: taken from each backend in one form, and compared with what a scenario expects.

A record is a dictionary: `what` (text of the log line, table, event, Acct-Status-Type), the core values, `time` and
`created` (seconds since 1970), `setup`, `duration`, `ms`, and one entry for each field; those of a second leg end in
.2.
"""
import calendar
import glob
import json
import math
import os
import re
import sqlite3
import time

from wire import PHRASES

CORE = ["method", "from_tag", "to_tag", "callid", "code", "reason"]
EXTRAS, LEGS = ["who", "note", "num", "end_cause", "end_side"], ["hop", "gw"]
# what each backend calls the fields
NAMES = {
    "log": dict(who="caller_uri", note="note", num="number", end_cause="cause", end_side="side",
                hop="hop", gw="gateway"),
    "sqlite": dict(who="caller", note="remark", num="num", end_cause="why", end_side="end_side",
                   hop="leg_hop", gw="leg_gw"),
    "evi": dict(who="who", note="note", num="num", end_cause="end_cause", end_side="ended_by", hop="hop", gw="gw"),
    "aaa": dict(who="E2e-Who", note="E2e-Note", num="E2e-Num", end_cause="E2e-Cause", end_side="E2e-Side",
                hop="E2e-Hop", gw="E2e-Gw"),
}
BACKENDS = list(NAMES)
TYPES = {"log": "log", "sqlite": "db", "evi": "evi", "aaa": "aaa"}
TEXTS = {"transaction": "transaction answered", "missed": "call missed", "manual": "request accounted",
         "cdr": "call ended", "ack": "request acknowledged"}
# what legs of message flags are called by every backend
LEG_NAMES = {"leg_hop": "hop", "leg_gw": "gw"}
# names of the log, and of SQL and events, for what has another name here
IN_LOG = {"timestamp": "time", "call_start_time": "time", "ms_duration": "ms", "setuptime": "setup", "call_id": "callid"}
IN_SQL = {"sip_code": "code", "sip_reason": "reason", "setuptime": "setup", "ms_duration": "ms"}
ATTRIBUTES = {40: "what", 205: "code", 204: "method", 55: "time", 206: "from_tag", 207: "to_tag", 44: "callid",
              227: "duration", 228: "setup", 229: "created", 230: "ms",
              **{240 + i: tag for i, tag in enumerate(EXTRAS + LEGS)}}
NUMBERS = {40, 205, 204, 55, 227, 228, 229, 230}
METHODS = {1: "INVITE", 2: "CANCEL", 4: "ACK", 8: "BYE", 32: "OPTIONS", 256: "MESSAGE"}
# what a difference may be: absolute times in s (they are cut to seconds), the others in their own unit
TOLERANCE = {"time": 1.4, "created": 1.4, "setup": 1, "duration": 1, "ms": 500}
# of an expected record
DEFAULTS = {"method": "INVITE", "from_tag": "ann-1", "to_tag": "desk-1", "code": 200, "created": 0.0, "setup": 0.0}


def flag_parameters(sc):
    """The modparam lines of accounting by message flags: ACC, MISSED, FAILED and CDR, for all backends."""
    lines = ['modparam("acc", "failed_transaction_flag", "FAILED")', 'modparam("acc", "cdr_flag", "CDR")']
    for backend in BACKENDS:
        prefix = TYPES[backend]
        lines += [f'modparam("acc", "{prefix}_flag", "ACC")', f'modparam("acc", "{prefix}_missed_flag", "MISSED")']
        for values, end in (sc["flags"], "extra"), (sc.get("flags_bye", {}), "extra_bye"):
            if values:
                pairs = "; ".join(f"{NAMES[backend][tag]} = {variable}" for tag, variable in values.items())
                lines.append(f'modparam("acc", "{prefix}_{end}", "{pairs}")')
    for name in "multi_leg_info", "multi_leg_bye_info":
        avps = [f"leg_{tag}=$avp({tag})" for tag in sc.get("flag_" + name, [])]
        if avps:
            lines.append(f'modparam("acc", "{name}", "{";".join(avps)}")')
    return "\n".join(lines)


def parameters(sc):
    """The modparam lines that declare the fields."""
    flags = [flag_parameters(sc)] if "flags" in sc else []
    return "\n".join(flags + ([] if "flags" in sc and not sc.get("fields") else [fields(sc.get("legs"))]))


def fields(legs):
    """Those of `extra_fields` and `leg_fields`."""
    lines = []
    for backend in BACKENDS:
        for name, tags in (("extra_fields", EXTRAS), ("leg_fields", LEGS if legs else [])):
            if tags:
                pairs = "; ".join(f"{tag}->{NAMES[backend][tag]}" for tag in tags)
                lines.append(f'modparam("acc", "{name}", "{TYPES[backend]}: {pairs}")')
    return "\n".join(lines)


def _named(pairs, backend):
    """Fields under their tags; repeated ones are numbered."""
    tags = {**LEG_NAMES, **{name: tag for tag, name in NAMES[backend].items()}}
    record, seen = {}, {}
    for name, value in pairs:
        name = tags.get(name, name)
        seen[name] = seen.get(name, 0) + 1
        record[name if seen[name] == 1 else f"{name}.{seen[name]}"] = value
    return record


def from_log(lines):
    records = []
    for line in lines:
        m = re.search(r":ACC: ([a-z ]+): (.*)$", line)
        if m:
            pairs = [p.partition("=")[::2] for p in m[2].split(";")]
            # the URIs of the scenarios hold no ';' or '='
            record = _named([(IN_LOG.get(n, n), v) for n, v in pairs], "log")
            records.append({"what": m[1], **{k: _value(k, v) for k, v in record.items()}})
    return records


def from_sqlite(path, tables):
    records = []
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        db.row_factory = sqlite3.Row
        for table in tables:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                for row in db.execute(f"SELECT * FROM {table} ORDER BY id"):
                    record = _named([(IN_SQL.get(n, n), row[n]) for n in row.keys() if n != "id"], "sqlite")
                    for k in ("time", "created"):
                        if record.get(k):
                            record[k] = calendar.timegm(time.strptime(record[k], "%Y-%m-%d %H:%M:%S"))
                    records.append({"what": table, **record})
        db.close()
    except sqlite3.OperationalError as e:
        if "unable to open" not in str(e):
            raise
    return records


# tables of db_text: what is no number is text
TEXT_CORE = [(c, "string") for c in ("method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason")] + [("time", "int")]
TEXT_FIELDS = [(NAMES["sqlite"][t], "string,null") for t in EXTRAS + LEGS]
TEXT_END = [("setuptime", "int"), ("created", "int,null")]
TEXT_DURATIONS = [("duration", "int"), ("ms_duration", "int")]


def make_text(directory, strict):
    """The tables for db_text, empty. In strict ones the column `remark` takes no NULL."""
    os.makedirs(directory)
    for table, more in ("acc", TEXT_DURATIONS), ("missed_calls", []):
        columns = [("id", "int,auto"), *TEXT_CORE, *TEXT_FIELDS, *TEXT_END, *more]
        with open(os.path.join(directory, table), "w") as f:
            head = " ".join(f"{name}({kind})" for name, kind in columns)
            f.write((head.replace("remark(string,null)", "remark(string)") if strict else head) + "\n")


def from_text(directory, tables):
    records = []
    for table in tables:
        with open(os.path.join(directory, table)) as f:
            head, *lines = f.read().split("\n")
        columns = [c.split("(") for c in head.split()]
        for line in filter(None, lines):
            values = [re.sub(r"\\(.)", r"\1", v) for v in re.split(r"(?<!\\):", line)]
            records.append(_from_words(table, columns, values))
    return records


def _from_words(table, columns, values):
    pairs = [(IN_SQL.get(name, name), int(v) if kind.startswith("int") and v else v or None)
             for (name, kind), v in zip(columns, values) if name != "id"]
    record = _named(pairs, "sqlite")
    # a column that was not declared is empty, and so is one without a value
    kept = {k: v for k, v in record.items() if v is not None or k in EXTRAS}
    return {"what": table, **dict.fromkeys(CORE, ""), **kept}


def from_flatstore(directory, tables, legs):
    """A line a row, in a file of its own for each process that writes; nothing names the columns."""
    fields = [f for f, t in zip(TEXT_FIELDS, EXTRAS + LEGS) if legs or t not in LEGS]
    records = []
    for table in tables:
        columns = TEXT_CORE + fields + TEXT_END + (TEXT_DURATIONS if table == "acc" else [])
        for path in glob.glob(os.path.join(directory, table + "_*.log")):
            with open(path) as f:
                rows = [line.split("|") for line in f.read().splitlines()]
            assert all(len(row) == len(columns) for row in rows), rows
            records += [_from_words(table, columns, row) for row in rows]
    return records


def from_events(datagrams):
    records = []
    for d in datagrams:
        event = json.loads(d)
        record = _named([(IN_SQL.get(n, n), v) for n, v in event["params"].items()], "evi")
        record = {k: "" if v is None and k in CORE else v for k, v in record.items()}
        records.append({"what": event["method"], **record})
    return records


def from_radius(packets):
    records = []
    for packet in packets:
        pairs, rest = [], packet[20:]
        while rest:
            number, value, rest = rest[0], rest[2:rest[1]], rest[rest[1]:]
            if number in ATTRIBUTES:
                value = int.from_bytes(value, "big") if number in NUMBERS else value.decode()
                if number == 204:
                    value = METHODS.get(value, value)
                pairs.append((ATTRIBUTES[number], value))
            elif number not in (4, 5, 6, 41):
                pairs.append((f"attribute {number}", value))
        record = _named(pairs, "aaa")
        record["code"] = str(record.get("code"))
        records.append(record)
    return records


def _value(name, text):
    if name in ("time", "created", "setup", "duration", "ms"):
        return int(text)
    return text if name in CORE or text else None


def expected(scenario, backend, callid):
    """The records a scenario expects from one backend; times are seconds after the first request."""
    out = []
    for r in scenario.get("expect", []):
        if backend not in r.get("backends", BACKENDS):
            continue
        r = {**DEFAULTS, **r}
        by_flags = "flags" in scenario and r.get("shape") != "context"
        kind, cdr, bare, code = r["kind"], r["kind"] == "cdr", r.get("bare"), r["code"]
        e = {k: str(r[k]) for k in ("method", "from_tag", "to_tag")}
        e.update(callid=r.get("callid", callid), code=str(code), reason=r.get("reason", PHRASES.get(code, "")))
        e.update(time=r.get("time", r["created"] + r["setup"]), created=r["created"], setup=math.floor(r["setup"]))
        e.update(ms=r.get("ms", 0), duration=math.ceil(r.get("ms", 0) / 1000))
        e.update(dict.fromkeys(EXTRAS), **({"end_cause": "bye", "end_side": "caller"} if cdr else {}))
        if by_flags:
            of_bye = list(scenario.get("flags_bye", {}))
            declared = list(scenario["flags"]) + (of_bye if cdr or backend == "sqlite" and kind != "missed" else [])
            if backend == "sqlite" and scenario.get("fields"):
                declared = EXTRAS
            for tag in [t for t in EXTRAS if t not in declared]:
                del e[tag]
            for tag in set(declared) & {"end_cause", "end_side"}:
                e[tag] = None
        e.update({tag: r[tag] for tag in r if tag.partition(".")[0] in EXTRAS})
        legs = r.get("legs", [{}]) if scenario.get("legs") and not bare else []
        leg_tags = LEGS
        if by_flags:
            leg_tags = scenario.get("flag_multi_leg_info", []) + (scenario.get("flag_multi_leg_bye_info", []) if cdr or backend == "sqlite" else [])
            legs = r.get("legs", [{}]) if leg_tags else []
        if backend == "log":
            e["what"], less = TEXTS[kind], ([] if cdr else ["duration", "ms"])
            less += ["created", "setup"] if bare else []
        elif backend == "sqlite":
            e["what"] = "missed_calls" if kind == "missed" else r.get("table", "acc")
            less = ["duration", "ms"] if e["what"] == "missed_calls" else []
            e.update({"created": None, "setup": 0} if bare else {})
        elif backend == "evi":
            missed = kind == "missed" or (kind == "manual" and code >= 300)
            e["what"] = "E_ACC_CDR" if cdr else "E_ACC_MISSED_EVENT" if missed else "E_ACC_EVENT"
            less = [] if cdr else ["duration", "ms"] + ([] if missed else ["created", "setup"])
        else:
            start = e["method"] == "INVITE" and 200 <= code < 300
            stop = cdr or e["method"] in ("BYE", "CANCEL")
            e["what"] = 2 if stop else 3 if r.get("inside") else 1 if start else 15
            less = ["reason"] + ([] if cdr else ["duration", "ms"])
            e = {k: v for k, v in e.items() if v not in ("", None)}
        if by_flags and backend == "sqlite":
            e.update({"ms": 0} if "ms" in e else {}, **({} if cdr or r.get("timed") else {"created": None, "setup": 0}))
        elif by_flags:
            less += ["ms"] + ([] if cdr or r.get("timed") else ["created", "setup"])
            less += ["created"] if cdr and backend == "aaa" else []
            less = [x for x in less if x not in ("created", "setup")] if r.get("timed") else less
        e = {k: v for k, v in e.items() if k not in less}
        fields = [{tag: leg.get(tag) for tag in leg_tags} for leg in legs]
        if backend == "aaa":
            fields = [{k: v for k, v in leg.items() if v is not None} if by_flags else leg for leg in fields]
        if backend in ("log", "aaa"):
            for i, leg in enumerate(fields):
                e.update({tag if i == 0 else f"{tag}.{i + 1}": v for tag, v in leg.items()})
            out.append(e)
        else:
            out += [{**e, **leg} for leg in fields] or [e]
    return out


def _differences(want, have, t0, tolerance):
    out = []
    for k in sorted(want.keys() | have.keys(), key=lambda k: (k not in want, k)):
        w, h = want.get(k), have.get(k)
        if k in tolerance and isinstance(w, (int, float)) and isinstance(h, int):
            h = round(h - t0, 1) if k in ("time", "created") else h
            if abs(h - w) > tolerance[k]:
                out.append(f"{k}: expected {w} (within {tolerance[k]}), got {h}")
        elif w == "*" and h:
            pass
        elif w != h and not (w == "*" and h):
            out.append(f"{k}: expected {w!r}, got {h!r}")
    return out


def compare(want, have, t0, tolerance, ordered):
    """Differences in words; [] when the records are those expected."""
    tolerance, out, left, order = {**TOLERANCE, **tolerance}, [], list(range(len(have))), []
    show = lambda r: ", ".join(f"{k}={v}" for k, v in r.items() if v is not None)
    for w in want:
        if not left:
            out.append("missing: " + show(w))
            continue
        best = min(left, key=lambda i: len(_differences(w, have[i], t0, tolerance)))
        left.remove(best)
        order.append(best)
        d = _differences(w, have[best], t0, tolerance)
        if d:
            out += [f"{w['what']} {w['method']} {w['code']}:"] + ["  " + x for x in d]
    out += ["not expected: " + show(have[i]) for i in left]
    if ordered and not out and order != sorted(order):
        came = "; ".join(f"{r['what']} {r['method']} {r['code']}" for r in have)
        out.append("the records came in another order: " + came)
    return out
