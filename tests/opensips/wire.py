"""What a phone does, as short steps, made into a SIPp scenario.

    "> INVITE"        send a request; after the call is answered it is one inside the dialog
    "< BYE"           wait for a request
    "> 183 sdp"       answer the last request; "> 486 Reason Phrase" for another phrase than the usual one
    "> 200 untagged"  answer without a To tag, once
    "< 200"           wait for a reply; provisional ones may come before
    "wait 1200"       do nothing, milliseconds
"""
from xml.sax.saxutils import quoteattr

PHRASES = {100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 403: "Forbidden", 404: "Not Found",
           408: "Request Timeout", 480: "Temporarily Unavailable", 486: "Busy Here", 487: "Request Terminated",
           503: "Service Unavailable"}
SDP = ["v=0", "o=- 7 7 IN IP4 [local_ip]", "s=-", "c=IN IP4 [local_ip]", "t=0 0", "m=audio 40000 RTP/AVP 8"]
ANN, DESK = '"Ann" <sip:ann@north.test>', "<sip:desk@south.test>"


def _message(first, headers, body=(), kind="application/sdp"):
    lines = [first] + headers + ([f"Content-Type: {kind}"] if body else []) + ["Content-Length: [len]", ""] + list(body)
    # a new line before and none missing after: SIPp strips the first and counts [len] from the empty line on
    return "<![CDATA[\n\n" + "\n".join(lines) + "\n\n]]>"


class Phone:
    """calling: Ann, who begins; else a callee with the tag desk-N."""

    def __init__(self, calling, number=1):
        self.calling, self.tag = calling, "ann-1" if calling else f"desk-{number}"
        self.cseq = 0 if calling else 100
        self.invite_cseq = 0    # of the INVITE that this phone sent last
        self.answered = False   # the dialog stands
        self.got = None         # method of the last request that came
        self.code = 0           # of the last reply that was waited for
        self.cancelled = False
        self.transaction = None  # SIPp's name of the one whose reply is waited for
        self.invite = None      # the same, of the last INVITE

    def scenario(self, steps):
        xml = ['<?xml version="1.0" encoding="UTF-8" ?>', f"<scenario name={quoteattr(self.tag)}>"]
        # A CANCEL has the branch of its INVITE, so SIPp cannot tell their replies by it.
        named = "> CANCEL" not in steps
        for i, step in enumerate(steps):
            word, _, rest = step.partition(" ")
            if word == "wait":
                xml.append(f'<pause milliseconds="{int(rest)}"/>')
            elif word == ">" and rest[0].isdigit():
                xml.append(self._send_reply(rest))
            elif word == ">":
                following = next((s for s in steps[i + 1:] if not s.startswith("wait")), "")
                xml.append(self._send_request(rest, named and following[:2] == "< " and following[2:3].isdigit()))
            elif word == "<" and rest[0].isdigit():
                xml.append(self._receive_reply(int(rest)))
            elif word == "<":
                self.got = rest
                self.cancelled |= rest == "CANCEL"
                xml.append(f'<recv request="{rest}" rrs="true"></recv>')
            else:
                raise ValueError(f"no such step: {step}")
        return "\n".join(xml + ["</scenario>"])

    def _receive_reply(self, code):
        self.code = code
        # Without it a repeated 200 to the INVITE is taken for the one to the BYE.
        of = f' response_txn="{self.transaction}"' if self.transaction else ""
        may = "".join(f'<recv response="{c}" optional="true"{of}></recv>' for c in (100, 180, 183) if c != code)
        if 200 <= code < 300:
            self.answered = True
        return f'{may}<recv response="{code}" rrs="true"{of}></recv>'

    def _send_request(self, method, awaited):
        again = method in ("ACK", "CANCEL")     # numbered as the INVITE it belongs to
        if not again:
            self.cseq += 1
        if method == "INVITE":
            self.invite_cseq = self.cseq
        number = self.invite_cseq if again else self.cseq
        inside = self.answered and not (method == "ACK" and self.code >= 300)
        branch = f"z9hG4bK-{self.tag}-{number}" + ("-ack" if method == "ACK" and inside else "")
        if self.calling:
            ends = [f"From: {ANN};tag={self.tag}",
                    f"To: {DESK}" + ("[peer_tag_param]" if self.answered or method == "ACK" else "")]
        else:
            ends = [f"From: {DESK};tag={self.tag}", f"To: {ANN};tag=ann-1"]
        uri = "[next_url]" if inside else "sip:desk@[remote_ip]:[remote_port]"
        via = f"Via: SIP/2.0/UDP [local_ip]:[local_port];branch={branch}"
        headers = [via] + (["[routes]"] if inside else []) + ends
        headers += ["Call-ID: [call_id]", f"CSeq: {number} {method}", "Max-Forwards: 50",
                    "Contact: <sip:phone@[local_ip]:[local_port]>"]
        body = {"INVITE": SDP, "MESSAGE": ["back at ten"]}.get(method, ())
        kind = "text/plain" if method == "MESSAGE" else "application/sdp"
        if method == "ACK":
            how = f' ack_txn="{self.invite}"' if self.invite else ""
        else:
            self.transaction = f"{method.lower()}{number}" if awaited else None
            if method == "INVITE":
                self.invite = self.transaction
            how = ' retrans="500"' + (f' start_txn="{self.transaction}"' if awaited else "")
        return f"<send{how}>" + _message(f"{method} {uri} SIP/2.0", headers, body, kind) + "</send>"

    def _send_reply(self, text):
        code, _, phrase = text.partition(" ")
        code, sdp, untagged = int(code), phrase == "sdp", phrase == "untagged"
        phrase = PHRASES[code] if sdp or untagged or not phrase else phrase
        for_invite = self.got == "INVITE" or (self.cancelled and code == 487)
        to = "[last_To:]" + ("" if self.answered or untagged else f";tag={self.tag}")
        cseq = "CSeq: 1 INVITE" if self.cancelled and code == 487 else "[last_CSeq:]"
        headers = ["[last_Via:]", "[last_Record-Route:]", "[last_From:]", to, "[last_Call-ID:]", cseq,
                   "Contact: <sip:phone@[local_ip]:[local_port]>"]
        sdp = sdp or (for_invite and code == 200)
        if for_invite and code == 200:
            self.answered = True
        retrans = ' retrans="500"' if for_invite and code >= 200 and not untagged else ""
        return f"<send{retrans}>" + _message(f"SIP/2.0 {code} {phrase}", headers, SDP if sdp else ()) + "</send>"
