"""Flow: how fast a queue fills and empties, from one look to the next, and when it will be empty.

Runs in: monitor (measures), `wq-status`. Pure.

What is settled is counted on this host only, as the broker tells none of it in a passive declare. What comes in is told
by the difference: where other hosts consume too, it is less than what really comes, by what they settle.
"""

import math
from typing import NamedTuple


class Flow(NamedTuple):
    """Messages a second, between two looks; None: unknown."""

    in_rate: float | None = None
    out_rate: float | None = None


class Whole(NamedTuple):
    """What the management API tells of a queue as a whole, on all hosts; None: not told."""

    unacked: int | None = None
    flow: Flow = Flow()


class _Look(NamedTuple):
    at: float
    ready: int
    settled: int


class Meter:
    """Measures one queue."""

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._settled = 0

    def measure(self, at: float, ready: int | None, settled: int) -> Flow:
        """What flowed since the last look.

        Args:
            at: when this one was taken, monotonic seconds.
            ready: the messages that waited; None: unknown, and the next look is a first one again.
            settled: all that this host settled so far. A count that goes back (the row of a worker was just cleared)
                is taken for no progress.
        """
        self._settled = max(self._settled, settled)
        last, self._last = self._last, None if ready is None else _Look(at, ready, self._settled)
        if last is None or ready is None or at <= last.at:
            return Flow()
        seconds = at - last.at
        out_rate = (self._settled - last.settled) / seconds
        return Flow(max(0.0, (ready - last.ready) / seconds + out_rate), out_rate)


def eta(ready: int | None, flow: Flow) -> float | None:
    """Seconds until the queue is empty if all goes on like this; None: unknown, or it does not get shorter."""
    if ready == 0:
        return 0.0
    if ready is None or flow.in_rate is None or flow.out_rate is None or flow.out_rate <= flow.in_rate:
        return None
    return ready / (flow.out_rate - flow.in_rate)


def at_least(ready: int | None, flow: Flow, *, served: bool) -> float | None:
    """Seconds until the queue is empty, at least; None: nobody can tell.

    A queue that does not get shorter has no ETA; what it would take if nothing came in is the least.

    Args:
        ready: messages that wait.
        flow: how they come and go.
        served: somebody consumes, so that nothing settled of late may mean long tasks, and proves nothing.
    """
    exact = eta(ready, flow)
    if exact is not None or ready is None or flow.out_rate is None:
        return exact
    if flow.out_rate > 0:
        return ready / flow.out_rate
    return 0.0 if served else math.inf
