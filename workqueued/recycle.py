"""Recycling: when a worker has served long enough.

Runs in: worker, between two messages.
"""

import errno
import os
import random
import resource
import time
from collections.abc import Callable

from workqueued.proc import resident_memory
from workqueued.queue_settings import Recycling

#: The part of a limit by which a worker may stay below it, so that a pool that was started at once is not replaced at
#: once.
_SPREAD = 0.1
#: How often memory is looked at, seconds; a look costs 10 µs.
_LOOK_EVERY = 1.0
#: Descriptors that a handler cannot leak, as a retry or a dead letter needs two connections of four each; and a worker
#: with no more left than these settles its message and goes. With fewer than the last figure in all, none are kept.
_RESERVE, _FEW = 10, 64


class Recycler:
    """Says when it is time.

    Args:
        policy: the limits.
        chance: between 0 and 1, drawn once for each limit.
        clock: monotonic seconds.
        resident: bytes of resident memory.
    """

    def __init__(
        self,
        policy: Recycling,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self._clock = clock
        self._resident = resident or resident_memory
        self._tasks = policy.tasks and max(1, round(policy.tasks * (1 - _SPREAD * chance())))
        self._until = None if policy.age is None else clock() + policy.age * (1 - _SPREAD * chance())
        self._memory = policy.memory
        self._looked_at = clock()
        self._reserve: list[int] = []

    def keep_descriptors(self) -> None:
        """Set some aside; once the limit is set."""
        self._most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self._most_descriptors >= _FEW:
            self._reserve = [os.open(os.devnull, os.O_RDONLY) for _ in range(_RESERVE)]

    def _descriptors_are_gone(self) -> bool:
        """Whether a handler has leaked nearly all there are; then those set aside are free."""
        if not self._reserve:
            return False
        try:
            lowest = os.dup(self._reserve[0])
            os.close(lowest)
        except OSError as error:
            if error.errno != errno.EMFILE:  # a handler has closed ours: the numbers may be anybody's now
                self._reserve.clear()
                return False
            lowest = self._most_descriptors
        if lowest < self._most_descriptors - _RESERVE:
            return False
        while self._reserve:
            os.close(self._reserve.pop())
        return True

    def due(self, tasks: int) -> str | None:
        """The reason to leave after so many tasks, or None."""
        if self._descriptors_are_gone():
            return "no file descriptors left: the handler does not close what it opens"
        if self._tasks and tasks >= self._tasks:
            return f"{tasks} tasks"
        if self._until is None and self._memory is None:
            return None
        now = self._clock()
        if self._until is not None and now >= self._until:
            return "its age"
        if self._memory is not None and now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            resident = self._resident()
            if resident >= self._memory:
                return f"{resident // 2**20} MiB of memory"
        return None
