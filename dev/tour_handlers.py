"""The handlers of the tour: one for each way in which a message can end."""

import os
import signal
import time
from pathlib import Path

from workqueued import Reject, Task


def greet(task: Task) -> None:
    """Return: the message is done."""
    task.log.info("greeting.given", text=f"Hello, {task.text}!")


def order(task: Task) -> None:
    """Raise something, twice: the message is tried again, later."""
    task.log.info("supplier.called", attempt=task.attempt)
    if task.attempt < 3:
        raise ConnectionError("the supplier does not answer")


def invoice(task: Task) -> None:
    """Refuse what is hopeless: the message goes to the dead queue at once."""
    file = Path(task.text)
    if not file.exists():
        raise Reject(f"no such order: {file}")
    task.log.info("invoice.printed", order=file.name)


def nap(_task: Task) -> None:
    """Hang, in a system call, for longer than the time limit."""
    time.sleep(60)


def crash(_task: Task) -> None:
    """Take the worker down, as a bug in a C library does."""
    os.kill(os.getpid(), signal.SIGSEGV)
