"""The handler of a chaos run: does what the message's kind says, and writes down what it finished.

Runs in: worker of the daemon under test.
"""

import contextlib
import os
import signal
import time
from functools import cache
from pathlib import Path

from chaos.books import WARM_UP, Witness, read_body
from workqueued import Task

_LEAKED: list[bytes] = []


def handle(task: Task) -> None:
    """Do, fail, crash, hang, leak."""
    if task.body == WARM_UP:
        return
    try:
        number, kind = read_body(task.body)
    except ValueError:
        (_directory(task.queue) / f"corrupt.{os.getpid()}.{time.monotonic_ns()}").write_bytes(task.body)
        raise
    match kind:
        case "once" if task.attempt == 1:
            raise ValueError("the first attempt fails")
        case "hopeless":
            raise ValueError("every attempt fails")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)
        case "stubborn":
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(3600)
        case "leak":
            _LEAKED.append(os.urandom(20_000_000))
    if task.queue == "victim":
        time.sleep(0.02)
    finish(task.queue, number)


def finish(queue: str, number: int) -> None:
    """Write down that it is done, in a file of this process."""
    _witness(queue, os.getpid()).note((number, time.monotonic()))


def _directory(queue: str) -> Path:
    return Path(os.environ["WQ_CHAOS_DIRECTORY"]) / queue


@cache
def _witness(queue: str, pid: int) -> Witness:
    return Witness(_directory(queue) / f"finished.{pid}")
