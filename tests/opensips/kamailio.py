"""A Kamailio in the place of OpenSIPS: the same scenarios, each step said in its script's words.

What Kamailio cannot do has the key `kamailio` in its scenario: the reason as a text, or what is different there as a table.
"""
import os
import re
import subprocess
import time

import records
from server import Failed, Installation, Stage

# numbers of the message flags, which have names in OpenSIPS
FLAGS = {"ACC": 1, "MISSED": 2, "FAILED": 3, "CDR": 4}
WORDS = [
    (r'\b(setflag|resetflag|isflagset)\("(\w+)"\)', lambda m: f"{m[1]}({FLAGS[m[2]]})"),
    (r'modparam\("acc", "(cdr_flag|\w+_extra_bye|multi_leg_bye_info)", .*\)\n?', ""),
    (r'(modparam\("acc", "\w+_flag", )"(\w+)"\)', lambda m: f"{m[1]}{FLAGS[m[2]]})"),
    (r"\bNULL\b", "$null"),
    (r"\b(sl_send_reply|send_reply|t_reply|change_reply_status)\((\d+),", r'\1("\2",'),
    (r'create_dialog\("[^"]+"\);', "$dlg_ctx(timeout_bye) = 1; dlg_manage();"),
    (r"create_dialog\(\);", "dlg_manage();"),
    (r"\$DLG_timeout = (\d+);", r'dlg_set_timeout("\1");'),
    (r"\bt_was_cancelled\(\)", "t_is_canceled()"),
    (r"usleep\((\d+)\)", r'usleep("\1")'),
    (r'modparam\("tm", "onreply_avp_mode", 1\)\n?', ""),        # AVPs of the reply route always count
]
EVENTS = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time", *records.NAMES["evi"].values(), *records.LEG_NAMES,
          "duration", "ms_duration", "setuptime", "created"]


def in_kamailio(text):
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    return text


class Kamailio(Installation):
    """Debian's."""

    def __init__(self, module):
        self.binary, self.mpath, self.module = "/usr/sbin/kamailio", "/usr/lib/x86_64-linux-gnu/kamailio/modules", module
        self.schemas, self.version = "/usr/share/kamailio/db_sqlite", (0, 0, 0)

    def scenario(self, sc):
        """With what is different here; None, and the reason, if it cannot be played."""
        of = sc.get("kamailio", {})
        if isinstance(of, str):
            return None, of
        sc = {**sc, **of}
        if "flags" in sc:
            # The server's own replies have a tag, which records of flags show there.
            tagged = [{**r, "to_tag": "*"} if r.get("to_tag") == "" and r["kind"] != "manual" else r for r in sc["expect"]]
            sc = {**sc, "expect": tagged, "params": sc.get("params", "") + '\nmodparam("acc", "acc_extra_nullable", 1)'}
        return sc, None

    def stage(self, *args):
        return KamailioStage(*args)


class KamailioStage(Stage):
    template, append_branch, bye_on_timeout, log_name = "kamailio.cfg", "append_branch", "x", "kamailio.log"

    def translate(self, text):
        less = ("hop", "gw") if "flags" in self.sc and not self.sc.get("fields") else tuple(records.LEG_NAMES)
        values = "|".join(f"{name}=$acc_event({name})" for name in EVENTS if name not in less)
        return in_kamailio(text.replace("@values@", values))

    def dialog_database(self):
        return (f'\nmodparam("dialog", "db_url", "sqlite:///{self.dir}/dialog.sqlite")'
                f'\nmodparam("dialog", "db_mode", {int(self.sc["dialog_database"])})')

    def start_server(self):
        control = os.path.join(self.dir, "ctl")
        if os.path.exists(control):
            os.unlink(control)
        with open(self.log_path, "ab") as log:
            self.server = self.children.start(
                [self.inst.binary, "-DD", "-E", "-f", self.cfg, "-w", self.dir, "-Y", self.dir, "-m", "256", "-M", "8"],
                stdout=log, stderr=log, env={**os.environ, "TZ": "UTC"})
        for _ in range(200):
            if self.server.poll() is not None:
                break
            if "panics" in self.rpc("acc.status"):
                return
            time.sleep(0.05)
        raise Failed("the server did not start: " + self._last_errors())

    def rpc(self, *command):
        p = subprocess.run(["kamcmd", "-s", f"unix:{self.dir}/ctl", *command], capture_output=True, text=True,
                           env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin"})
        return p.stdout + p.stderr if p.returncode == 0 else ""

    def mi(self, method, /, **params):
        """An RPC, answered as JSON as far as the scenarios look at it."""
        if method == "dlg_end_dlg":
            text = self.rpc("dlg.list")
            entry, number = (re.search(rf"h_{x}: (\d+)", text) for x in ("entry", "id"))
            if not entry or not number:
                return ""
            text = self.rpc("dlg.end_dlg", entry[1], number[1])
            return '"result"' if "error" not in text.lower() else ""
        text = self.rpc(method.replace("acc_", "acc.", 1))
        pairs = re.findall(r"^\s*(\w+): (.*)$", text, re.M)
        said = ",".join(f'"{k}":{v}' if re.fullmatch(r"-?\d+", v) else f'"{k}":"{v}"' for k, v in pairs)
        return f'{{"result":{{{said},}}}}' if pairs else ""

    def records(self):
        return {**super().records(), "evi": list(self._events())}

    def _events(self):
        for line in self.log_lines():
            m = re.search(r"EVENT (\w+) (.*)$", line)
            if not m:
                continue
            record = {"what": m[1]}
            pairs = [p.partition("=")[::2] for p in m[2].split("|")]
            kept = records.CORE + ["sip_code", "sip_reason"]
            shown = [(n, None if v == "<null>" else v) for n, v in pairs]
            for name, value in records._named([(records.IN_SQL.get(n, n), v) for n, v in shown], "evi").items():
                if value is not None and name in ("time", "created", "setup", "duration", "ms"):
                    value = int(value)
                record[name] = "" if value is None and name in kept else value
            yield {k: v for k, v in record.items() if v is not None or k in records.EXTRAS}
