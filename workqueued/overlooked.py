"""Overlooked: an idle worker beside messages that are ready.

Runs in: worker, when a wait for a message ended without one.

Connection, channel and consumer may look alive from here, heartbeats and all, and yet no message comes: the broker has
lost the consumer, or something in between swallows deliveries. With prefetch 1 there is no idle consumer beside ready
messages, except for a moment; so when two of the monitor's samples in a row show that, the worker connects anew. So it
does when they show that the broker counts fewer consumers than there are workers that consume: it may be one of those.

It can be right after all: at a queue with a single active consumer, or when others consume with a higher priority. And
a delivery that is swallowed on each new connection counts as one more redelivery each time. So the next time takes
twice the patience, up to an hour, until a message comes.
"""

import time
from collections.abc import Callable

from workqueued.errors import ConnectionLostError

#: How long a worker has been idle when the first sample counts, seconds: at first, and at most.
PATIENCE, MOST_PATIENCE = 5.0, 3600.0


class OverlookedError(ConnectionLostError):
    """The broker gives us nothing although there is something.

    Attributes:
        ready: messages that waited.
        idle_s: for how long nothing had come, seconds.
        uncounted: consumers that the broker does not know of.
    """

    def __init__(self, ready: int, idle_s: float, uncounted: int = 0) -> None:
        super().__init__(
            f"{ready} messages are ready, and none has come for {idle_s:.1f} s; the broker misses {uncounted} consumers"
        )
        self.ready = ready
        self.idle_s = idle_s
        self.uncounted = uncounted


class Lookout:
    """Says when a worker is overlooked.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._patience = PATIENCE
        self._deliveries = 0
        self._idle_since = clock()
        self._suspicious: float | None = None

    def begin(self) -> None:
        """A consumer has started."""
        self._idle_since = self._clock()
        self._suspicious = None

    def check(self, deliveries: int, ready: int, sampled_at: float, uncounted: int = 0) -> None:
        """Look around, idle.

        Args:
            deliveries: taken so far by this worker.
            ready: messages in the queue at the last sample; not positive when there is none, or nobody knows.
            sampled_at: when that was, monotonic seconds.
            uncounted: workers that the broker does not count among the consumers; this one may be among them.

        Raises:
            OverlookedError: it is time for a new connection.
        """
        if deliveries != self._deliveries:
            self._deliveries = deliveries
            self._patience = PATIENCE
            self.begin()
        elif ready <= 0 and not uncounted:
            self._suspicious = None
        elif sampled_at < self._idle_since + self._patience:
            return  # taken too early: a message that was on its way to us then was ready too
        elif self._suspicious is None:
            self._suspicious = sampled_at
        elif sampled_at != self._suspicious:
            self._patience = min(self._patience * 2, MOST_PATIENCE)
            raise OverlookedError(max(ready, 0), self._clock() - self._idle_since, uncounted)
