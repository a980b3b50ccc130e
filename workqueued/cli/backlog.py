"""Backlog: one line and an exit code for a monitoring system.

By the Monitoring Plugins Development Guidelines: four exit codes, and performance data behind a `|`.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from workqueued.cli.dashboard import span
from workqueued.cli.screen import visible
from workqueued.flow import Flow, at_least
from workqueued.status import Condition, QueueStatus, Status

#: What counts where no threshold was given, seconds.
WARN_ETA, CRIT_ETA = 300.0, 1800.0


class Level(enum.IntEnum):
    """Exit codes of a plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


#: From good to bad. What is known to be bad counts more than what is not known.
_SEVERITY = (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL)


class Thresholds(NamedTuple):
    """More than this is a warning, or critical; None: never."""

    warn_eta: float | None = None
    crit_eta: float | None = None
    warn_ready: int | None = None
    crit_ready: int | None = None


def check(status: Status, limits: Thresholds) -> tuple[Level, str]:
    """The exit code and the line, for all queues of a status."""
    if status.condition is Condition.DOWN:
        return Level.CRITICAL, _line(Level.CRITICAL, ["down: " + "; ".join(status.reasons)], [])
    if not status.queues:
        return Level.UNKNOWN, _line(Level.UNKNOWN, ["there is no such queue"], [])
    found = [_check_one(queue, limits, status.late_s) for queue in status.queues]
    level = max((one for one, _ in found), key=_SEVERITY.index)
    worst = [text for one, text in found if one is level]
    others = [text for one, text in found if one is not level]
    data = [one for queue in status.queues for one in _data(queue, limits, status.late_s)]
    return level, _line(level, worst + others, data)


def _check_one(queue: QueueStatus, limits: Thresholds, late: float) -> tuple[Level, str]:
    if queue.ready is None or queue.age_s is None:
        return Level.UNKNOWN, f"{queue.name}: depth unknown"
    if queue.age_s > late:
        return Level.UNKNOWN, f"{queue.name}: the monitor's sample is {span(queue.age_s)} old"
    by_ready = _grade(queue.ready, limits.warn_ready, limits.crit_ready)
    needs_eta = limits.warn_eta is not None or limits.crit_eta is not None
    seconds, words = estimate(queue)
    by_eta = Level.OK
    if needs_eta:
        by_eta = Level.UNKNOWN if seconds is None else _grade(seconds, limits.warn_eta, limits.crit_eta)
    return max(by_ready, by_eta, key=_SEVERITY.index), f"{queue.name}: {queue.ready} ready, {words}"


def estimate(queue: QueueStatus) -> tuple[float | None, str]:
    """Seconds until a queue is empty, at least, and that in words; None: nobody can tell."""
    served = bool(queue.serving and queue.consumers)
    if queue.eta_s is not None:
        return queue.eta_s, f"eta {span(queue.eta_s)}"
    least = at_least(queue.ready, queue.flow, served=served)
    if least is None:
        return None, "eta unknown yet"
    if queue.flow.out_rate:
        return least, f"not getting shorter, eta more than {span(least)}"
    if served:
        return least, "eta unknown, as nothing was settled of late"  # long tasks, or it has only just come in
    return least, "nobody takes any"


def _grade(value: float, warn: float | None, crit: float | None) -> Level:
    if crit is not None and value > crit:
        return Level.CRITICAL
    return Level.WARNING if warn is not None and value > warn else Level.OK


def _line(level: Level, texts: Sequence[str], data: Sequence[str]) -> str:
    # A | begins the performance data, and a line is all that is read.
    text = visible(f"WORKQUEUED {level.name} - {'; '.join(texts)}").replace("|", "/")
    return f"{text} | {' '.join(data)}" if data else text


def _data(queue: QueueStatus, limits: Thresholds, late: float) -> list[str]:
    if queue.age_s is None or queue.age_s > late:  # or a graph would go on as if nothing had happened
        queue = queue._replace(ready=None, eta_s=None, flow=Flow())
    label = visible(queue.name).replace("=", "_").replace("'", "''").replace("|", "/")
    ready = "U" if queue.ready is None else str(queue.ready)
    eta = "U" if queue.eta_s is None else f"{queue.eta_s:.0f}s"
    data = [
        f"'{label} ready'={ready};{_limit(limits.warn_ready)};{_limit(limits.crit_ready)};0",
        f"'{label} eta'={eta};{_limit(limits.warn_eta)};{_limit(limits.crit_eta)};0",
    ]
    for name, rate in (("in", queue.flow.in_rate), ("out", queue.flow.out_rate)):
        data.append(f"'{label} {name}'={'U' if rate is None else f'{rate:.3f}'};;;0")
    return data


def _limit(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
