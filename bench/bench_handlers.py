"""What every system under test has to do for a message: next to nothing, so that everything else is measured.

A handler gets a workqueued Task, the body of another system (bytes), or the argument of a Celery or Dramatiq task.
"""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.counters import Counters


class _Counted:
    """Counts a message once the work for it is done."""

    def __init__(self, work: Callable[[Any, int], None] | None = None) -> None:
        self._counters = Counters(Path(os.environ["WQ_BENCH_COUNTERS"]))
        self._words = self._counters.words
        self._work = work
        self._at = -1

    def __call__(self, message: Any) -> None:
        at = self._at
        if at < 0:  # at the first task: the process that imports this is not always the one that works
            at = self._at = self._counters.claim()
        if self._work is not None:
            self._work(message, self._words[at])
        self._words[at] += 1


def _toil(message: Any, _done: int) -> None:
    body = getattr(message, "body", message)
    time.sleep(0.05 if body[0] in (b"H"[0], "H") else 0.001)


def _collect(_message: Any, done: int) -> None:
    if done % 250 == 249:
        gc.collect()


def _fail_once(message: Any, _done: int) -> None:
    if message.attempt == 1:
        raise ValueError("the first attempt")


nothing = _Counted()
#: A body that begins with H is heavy, 50 ms; another one light, 1 ms.
toil = _Counted(_toil)
#: Has the garbage collected once in 250 tasks.
collect = _Counted(_collect)
#: Fails the first attempt, and counts the second.
fail_once = _Counted(_fail_once)
