"""Measure retries: 10,000 messages fail once; do all come back, none early, and how late?

`python -m bench.retries`: about a minute, on a private broker; prints two rows of a Markdown table.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench.results import row
from bench.rig import Rig
from bench.systems import FAILING_ONCE
from workqueued.node import Node

MESSAGES = 10_000


def measure(rig: Rig) -> tuple[int, int, float]:
    """How many messages came back, how many of them early, and by how much the others were late, median, seconds."""
    queue = rig.declare(FAILING_ONCE, "quorum", "retries")
    rig.fill(FAILING_ONCE, queue, MESSAGES, [b"x" * 100])
    with rig.run(FAILING_ONCE, queue, "quorum", 2, "fail_once") as running:

        def returned() -> bool:
            return running.log.read_bytes().count(b'"outcome": "done"') >= MESSAGES

        rig.wait(returned, "all retries", within=300, pause=0.5)
        events = [json.loads(line) for line in running.log.read_bytes().splitlines()]
    # wait_ms is counted from when the message was due, and null when that is still to come.
    waits = {event["message_id"]: event["wait_ms"] for event in events if event.get("outcome") == "done"}
    late = [wait for wait in waits.values() if wait is not None]
    return len(waits), len(waits) - len(late), statistics.median(late or [0]) / 1000


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        back, early, late = measure(Rig(Path(folder), node))
    goal = f"{MESSAGES:,} back, 0 early"
    print(row(f"{MESSAGES:,} messages that fail once, retried after 1 s", f"{back:,} back, {early:,} early", goal))
    print(row("… how late, median (behind the first attempts of the others)", f"{late:.1f} s", ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
