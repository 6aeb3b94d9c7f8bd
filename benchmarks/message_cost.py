"""What a worker's word to its master costs, through Locust's own sockets. Prints CPU us, both sides together.

A program of its own, because Locust patches the process that imports it.
"""

from __future__ import annotations

from locust.rpc import Message, rpc

import sys

import gevent

from harness import messages
from harness.core import clock
from harness.traffic.totals import Totals

MESSAGES = 5000


def main() -> None:
    server = rpc.Server("127.0.0.1", 0)
    client = rpc.Client("127.0.0.1", server.port, "worker")
    totals = Totals(sent=1000, ok=900, tokens=150_000, in_flight=100, past={50: 40})

    def listen() -> None:
        for _ in range(MESSAGES):
            messages.read(server.recv_from_client()[1].data, Totals)

    master = gevent.spawn(listen)
    began_s = clock.cpu_s()
    for _ in range(MESSAGES):
        client.send(Message(messages.LIVE, messages.plain(totals), "worker"))
        gevent.sleep(0)
    master.join()
    sys.stdout.write(f"{1e6 * (clock.cpu_s() - began_s) / MESSAGES:.0f}\n")


if __name__ == "__main__":
    main()
