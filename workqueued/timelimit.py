"""The time limit of a handler in Python: an exception that is raised inside it.

Runs in: worker, on the main thread.

SIGALRM interrupts a sleep, a recv, a lock or a loop at once (and a long call in C at its end), where a flag or a thread
could only ask. The exception must come out inside the handler and nowhere else: one that is raised in the middle of
`Lock.acquire` was seen to leave the lock unowned. So the signal does nothing unless the limit is armed, it disarms
itself, and it is disarmed before the connection is taken back.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from workqueued.errors import TimeLimitExceeded
from workqueued.signals import current_handler

T = TypeVar("T")


class TimeLimit:
    """One limit, used again and again.

    Attributes:
        fired: the exception was raised in the last call.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._armed = False
        self.fired = False

    def install(self) -> None:
        """Take SIGALRM. Main thread only; again after a handler that took it for itself."""
        if self._seconds is not None:
            signal.signal(signal.SIGALRM, self._ring)

    def restore(self) -> bool:
        """Undo what a handler did to SIGALRM; returns whether anything had to be undone. Main thread only."""
        if self._seconds is None or current_handler(signal.SIGALRM) == self._ring:
            return False
        self.install()
        return True

    def call(self, function: Callable[[Any], T], argument: Any) -> T:
        """Call `function(argument)` under the limit; what it raises comes out, TimeLimitExceeded among it."""
        if self._seconds is None:
            return function(argument)
        self.fired = False
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            return function(argument)
        finally:
            # The alarm may still come in this very line: then it is raised here, once, and is armed no more.
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            self.fired = True
            raise TimeLimitExceeded(f"the time limit of {self._seconds:g} s")
