"""Overdue: which child is to be told again that it should end, and which is to be killed.

Runs in: master. Pure, but for what a child is known to have been told.
"""

from workqueued.broker_settings import Broker
from workqueued.slots import Child, Drain, Kill

#: A child that shows no sign of life outside of a task for this long is killed, seconds; at least three times the time
#: after which a silent broker is noticed.
_STALE_AFTER = 120.0
#: The same for a child that is still importing its handler.
_STALE_STARTING = 600.0
#: How often a child that drains is told so again, seconds: a handler may have taken the signal for itself.
_TELL_AGAIN = 30.0


def patience(broker: Broker) -> float:
    """How long a child that is ready may show no sign of life outside of a task, seconds."""
    # A silent broker holds it up for so long, and no connect ticks.
    return max(_STALE_AFTER, 4 * (broker.rhythm + 5) + len(broker.url) * broker.connect_timeout)


def drain(child: Child, now: float) -> Drain:
    """Have it told that it should end when its task has."""
    child.told_at = now
    child.drain_at = child.drain_at or now
    return Drain(child.pid)


def kill(child: Child, reason: str) -> Kill:
    """Have it killed."""
    child.killed = True
    return Kill(child.pid, reason)


def judge(child: Child, now: float, patience: float, drain_margin: float) -> Kill | Drain | None:
    """What is to be done with a child that does not end, or shows no sign of life; None: nothing.

    Args:
        child: its state has just been read, unless it drains.
        now: monotonic seconds.
        patience: see `patience`.
        drain_margin: from SIGQUIT to SIGKILL, seconds.
    """
    if child.killed:
        return None
    if child.deadline and now >= child.deadline:
        child.over_limit = True
        return kill(child, "hard time limit")
    if child.drain_at is not None and child.hand_back_at is None and now >= child.told_at + _TELL_AGAIN:
        return drain(child, now)
    if child.hand_back_at is not None and now >= child.hand_back_at + drain_margin:
        return kill(child, "did not hand back in time")
    if not child.busy and now >= child.tick + (patience if child.ready else _STALE_STARTING):
        return kill(child, "no sign of life")  # a task may hold the interpreter for as long as it likes
    return None
