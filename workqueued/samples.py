"""Sample handlers, to see workqueued work before writing one's own.

queues:
task_queue:
handler: workqueued.samples:dots
"""

import time

from workqueued.task import Task


def dots(task: Task) -> None:
    """Work one second for every dot in the message, as the worker of RabbitMQ's "Work Queues" tutorial does."""
    seconds = task.body.count(b".")
    time.sleep(seconds)
    task.log.info("sample.finished", text=task.body.decode(errors="replace")[:200], dots=seconds)


def fail(task: Task) -> None:
    """Fail: the message goes to the dead queue with this error."""
    raise RuntimeError(f"this sample always fails; the message had {len(task.body)} bytes")
