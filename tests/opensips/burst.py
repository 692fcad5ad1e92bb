"""A stranger: many INVITEs at once, small and huge, that the script marks, keeps a header of, and refuses."""
import random
import re
import socket
import threading
import time

SECONDS = 8     # in which it acknowledges what it got
REFUSED = 600   # requests: some 20 MB; more are sent, as long as the server's socket loses some, for half of that time
# Bytes of the From tag and of the kept header. What is small is few enough for the share of the shared memory that
# huge ones leave alone: the calls that are judged are never refused.
HUGE, SMALL = (18000, 28000), (0, 500)
PAUSE = 0.002   # s between two, so that not all are lost in the receive buffer of the server's socket


class Burst(threading.Thread):
    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.rng, self.server, self.name = random.Random(number), ("127.0.0.1", port), f"burst-{number:.12f}"

    def request(self, method, first, headers):
        lines = [f"{method} sip:burst@127.0.0.1 SIP/2.0", *first, *headers, "Max-Forwards: 50", "Content-Length: 0", "", ""]
        self.socket.sendto("\r\n".join(lines).encode(), self.server)

    def run(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as self.socket:
            self.socket.bind(("127.0.0.1", 0))
            self.socket.settimeout(PAUSE)
            end = time.monotonic() + SECONDS
            i = refused = 0
            while refused < REFUSED and time.monotonic() < end - SECONDS / 2:
                i += 1
                tag, header = (self.rng.randint(*self.rng.choice((HUGE, HUGE, SMALL))) for _ in "ab")
                branch = f"Via: SIP/2.0/UDP 127.0.0.1:{self.socket.getsockname()[1]};branch=z9hG4bK{self.name}-{i}"
                self.request("INVITE", [branch], [
                    f"From: <sip:stranger@127.0.0.1>;tag={'t' * tag}{i}", "To: <sip:burst@127.0.0.1>",
                    f"Call-ID: {self.name}-{i}", "CSeq: 1 INVITE", f"X-Big: {'x' * header}"])
                refused += self.acknowledge()
            while time.monotonic() < end:
                self.acknowledge()

    def acknowledge(self):
        """Whether a request was refused."""
        try:
            reply = self.socket.recv(65536).decode()
        except (TimeoutError, ConnectionError):
            return False
        is_final = int(reply[8:11]) >= 200
        if is_final:
            kept = re.findall(r"^(?:Via|From|To|Call-ID): .*?(?=\r$)", reply, re.M)
            self.request("ACK", [], kept + ["CSeq: 1 ACK"])
        return is_final
