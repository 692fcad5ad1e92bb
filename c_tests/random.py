#!/usr/bin/env python3
"""Writes a scenario of 200 calls with random bytes in every field: random.py SEED > FILE.

Whatever a caller sends, each call has its record, no entry point panics, and nothing is left behind.
"""

import random
import sys

CALLS = 200
# What has a meaning somewhere on the way: log lines, SQL, RADIUS, JSON, format strings, our own encodings.
MEANT = [b"'; DROP TABLE acc; --", b"%s%n%x", b"\\", b'"', b"\x00", b"\xff\xfe", b"\xc3", b"$acc_extra(a)", b"{}", b"ACC: ", b"\x1b[2J", b";", b"=", b"\t"]


def value(rng, free=()):
    """Bytes of any kind and length; those in `free` would end the field for the SIP parser itself."""
    kind = rng.randrange(6)
    if kind == 0:
        out = b""
    elif kind == 1:
        out = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    elif kind == 2:
        out = b"".join(rng.choice(MEANT) for _ in range(rng.randrange(1, 6)))
    elif kind == 3:
        out = bytes([rng.randrange(256)]) * rng.choice([63, 64, 127, 128, 252, 253, 254, 255, 256, 1023, 1024, 4096, 20000])
    else:
        out = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz0123456789-") for _ in range(rng.randrange(1, 30)))
    return bytes(b for b in out if b not in b"\r\n" and b not in bytes(free))


def escaped(raw):
    return "".join(f"\\x{b:02x}" if not chr(b).isalnum() or b > 126 else chr(b) for b in raw)


def quoted(raw):
    return '"' + escaped(bytes(b for b in raw if b)) + '"'


def main():
    rng = random.Random(int(sys.argv[1]))
    print(f"title calls with random bytes, seed {sys.argv[1]}\ninclude {sys.path[0]}/scenarios/base.inc\nhost workers 4")
    routes, steps = [], []
    answered = failed = missed = 0
    for n in range(CALLS):
        # Without From tag there is no dialog, without its To tag it is not found again; the host's dialogs
        # have names without NUL.
        ftag, reason = value(rng, b"\0;>, \t\v\f\"<") or b"f", value(rng)
        callid = value(rng, b"\0 \t~") + b"~%d" % n
        head = f"Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-{n}-"
        user = value(rng, b'<>@ ;"')
        from_, to = f"From: <sip:{escaped(user)}@example.com>;tag={escaped(ftag)}", "To: <sip:bob@example.com>"
        own = "".join(f"X-{name}: {escaped(value(rng))}\n" for name in "ABCD")
        common = f"{own}Call-ID: {escaped(callid)}\nUser-Agent: {escaped(value(rng))}\n"
        print(f"msg i{n} bytes <<END\nINVITE sip:bob@example.com SIP/2.0\n{head}i\n{from_}\n{to}\n{common}CSeq: 1 INVITE\nEND")
        print(f"msg b{n} bytes <<END\nBYE sip:bob@example.com SIP/2.0\n{head}b\n{from_}\n{to};tag=bob-1\n{common}CSeq: 2 BYE\nEND")
        end = rng.choice(["cdr", "cdr", "failed", "missed"])
        print(f"route request r{n} {{\n  do_accounting(\"log|db|evi\", \"{end}\")")
        for tag, header in [("caller", "X-A"), ("callee", "X-B"), ("note", "X-C")]:
            if rng.randrange(3):
                print(f"  $acc_extra({tag}) = $hdr({header})")
        for _ in range(rng.randrange(4)):
            print("  $acc_leg(leg_src) = $hdr(X-D)\n  acc_new_leg()")
        print("  t_relay()\n}")
        worker = [rng.randrange(1, 5) for _ in range(4)]
        steps.append(f"recv {worker[0]} i{n} r{n}")
        said = f' {quoted(reason)}' if reason.strip(b"\x00") else ""
        if end == "cdr":
            answered += 1
            steps.append(f"reply {worker[1]} i{n} 200{said} totag=bob-1")
            steps.append(f"recv {worker[2]} b{n} inside")
            steps.append(f"reply {worker[3]} b{n} 200{said}")
        else:
            failed, missed = failed + (end == "failed"), missed + (end == "missed")
            steps.append(f"reply {worker[1]} i{n} {rng.choice([404, 486, 603])}{said}")
        steps.append("reap")
    print("start\n" + "\n".join(steps))
    print("expect up\nexpect stat panics 0\nexpect stat journal_lost 0")
    print(f'expect within 30 row "SELECT (SELECT count(DISTINCT callid) FROM acc), (SELECT count(DISTINCT callid) FROM missed_calls)" "{answered + failed}|{missed}"')
    print("expect stat db_dead 0\nexpect stat panics 0\nexpect live 0\nexpect stat acc_live_blocks 0")


if __name__ == "__main__":
    main()
