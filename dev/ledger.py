"""The handler of `make demo`: the sample, and a line in a file for each message that was handled to the end.

Runs in: worker.

The daemon's log cannot be the witness: a worker whose master was killed finishes its task, but nobody reads its log.
"""

from pathlib import Path

from workqueued import samples
from workqueued.task import Task

STATE = Path(__file__).resolve().parent.parent / ".run/demo"
LEDGER = STATE / "handled"


def dots(task: Task) -> None:
    """Work one second for every dot, then write the message's id down; one write(2), so that lines do not mix."""
    samples.dots(task)
    with LEDGER.open("ab", buffering=0) as ledger:
        ledger.write(f"{task.message_id}\n".encode())
