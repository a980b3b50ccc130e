"""Measure retries: that all come back and none early, and what a failed attempt costs.

python -m bench.retries: on a private broker.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.common import Daemon, daemon, eventually, fill, print_row
from bench.relay import Relay
from workqueued.node import Node

#: A second, without jitter, once.
RETRY = {"attempts": 2, "first": "1s", "factor": 1, "jitter": 0}


def measure_delays(scratch: Path, node: Node, messages: int = 10_000) -> tuple[int, int, float]:
    """How many of the messages that failed once came back, how many of them early, and how late the median was, s."""
    queues = {"retries": {"handler": "bench_handler:fail_once", "workers": 2, "retry": RETRY}}
    fill(node, "retries", "quorum", messages)
    with daemon(scratch / "retries", node.url, queues) as one:
        eventually(lambda: one.log.read_bytes().count(b'"outcome": "done"') >= messages, 300, "all retries")
        found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for event in one.events("delivery.settled"):
            found[event["message_id"]][event["attempt"]] = event
    # wait_ms is counted from when the message was due, and null when that is still to come.
    waits = [story[2]["wait_ms"] for story in found.values() if 1 in story and 2 in story]
    late = sorted(wait for wait in waits if wait is not None)
    return len(waits), len(waits) - len(late), late[len(late) // 2] / 1000


def measure_round_trips(scratch: Path, node: Node, messages: int = 2_000) -> tuple[float, float]:
    """Round trips to the broker for a message that is done, and for an attempt that fails and is to be retried."""
    counts = []
    for name, handler in (("done", "nothing"), ("failed", "fail")):
        queue = f"trips.{name}"
        retry = {"attempts": 2, "first": "1h", "jitter": 0}
        fill(node, queue, "classic", messages)
        relay = Relay(node.port)
        url = node.url.replace(f":{node.port}", f":{relay.port}")
        queues = {queue: {"handler": f"bench_handler:{handler}", "type": "classic", "retry": retry}}
        with daemon(scratch / name, url, queues) as one:
            await_settled(one, 100)
            began, before = relay.round_trips, settled(one)
            await_settled(one, messages)
            counts.append((relay.round_trips - began) / (messages - before))
        relay.close()
    return counts[0], counts[1]


def settled(one: Daemon) -> int:
    """How many deliveries were settled by now."""
    return one.log.read_bytes().count(b"delivery.settled")


def await_settled(one: Daemon, count: int) -> None:
    """Wait until there are so many."""
    eventually(lambda: settled(one) >= count, 120, f"{count} settled")


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        report(Path(folder), node)
    return 0


def report(scratch: Path, node: Node) -> None:
    """Measure, and print rows of the table."""
    back, early, late = measure_delays(scratch, node)
    print_row("10,000 messages that fail once, retried after 1 s", f"{back} back, {early} early", "10000 back, 0 early")
    print_row("… how late, median (behind the first attempts of the others)", f"{late:.1f} s", "")
    done, failed = measure_round_trips(scratch, node)
    ratio = f"{failed:.2f} / {done:.2f} = {failed / done:.1f}"
    print_row("round trips of a failed attempt against a successful one", ratio, "≤ 3")


if __name__ == "__main__":
    sys.exit(main())
