"""Alerts: when a queue is in trouble for long enough to say so, and when that is over.

Runs in: monitor. Pure: samples in, events out.

Each alert has two thresholds and two durations, so that a figure that swings around one of them does not ring a bell at
every turn. An unknown sample proves nothing: what is active stays so, and what was about to be begins anew. What is
active lies in the scoreboard, so that a reload, which replaces the monitor, neither repeats nor forgets it.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from workqueued.flow import Flow, at_least
from workqueued.monitor_settings import Alerts
from workqueued.status import Alert

#: A backlog is low again at this part of its thresholds.
_LOW = 0.8
#: Growth of a dead queue is looked at within so many seconds, in so many steps.
_WINDOW, _STEPS = 3600.0, 60


class Sample(NamedTuple):
    """What is known of a queue at a moment; None: unknown.

    Attributes:
        at: monotonic seconds.
        paused: nobody is meant to consume.
    """

    at: float
    ready: int | None
    consumers: int | None
    dead: int | None
    flow: Flow
    paused: bool = False


class Event(NamedTuple):
    """Something to say: an alert that has come, or gone."""

    alert: Alert
    raised: bool
    facts: dict[str, object]


class Watch:
    """Watches one queue.

    Args:
        limits: what is too much.
        active: what is active already.
    """

    def __init__(self, limits: Alerts, active: int = 0) -> None:
        self._limits = limits
        self._flow = _Smooth(limits.after)
        self._growth = _Growth()
        never = math.inf
        unconsumed = never if limits.unconsumed is None else limits.unconsumed
        self._switches = {
            Alert.BACKLOG_HIGH: _Switch(limits.after, limits.after, active=bool(active & Alert.BACKLOG_HIGH)),
            Alert.UNCONSUMED: _Switch(unconsumed, 0.0, active=bool(active & Alert.UNCONSUMED)),
            Alert.DEAD_GROWING: _Switch(0.0, 0.0, active=bool(active & Alert.DEAD_GROWING)),
        }

    @property
    def active(self) -> int:
        """What is active, as bits."""
        return sum(alert for alert, switch in self._switches.items() if switch.active)

    def take(self, sample: Sample) -> Iterator[Event]:
        """What a new sample changes."""
        flow = self._flow.take(sample.at, sample.flow)
        served = bool(sample.consumers)
        least = at_least(sample.ready, flow, served=served)
        grown = self._growth.take(sample.at, sample.dead)
        eta_s = None if least is None or math.isinf(least) else round(least)
        depth: dict[str, object] = {"ready": sample.ready, "consumers": sample.consumers}
        rates = {"in_rate": _rounded(flow.in_rate), "out_rate": _rounded(flow.out_rate)}
        looks = {
            Alert.BACKLOG_HIGH: self._judge_backlog(sample, least),
            Alert.UNCONSUMED: _judge_unconsumed(sample),
            Alert.DEAD_GROWING: self._judge_dead(grown),
        }
        facts: dict[Alert, dict[str, object]] = {
            Alert.BACKLOG_HIGH: {**depth, "eta_s": eta_s, **rates},
            Alert.UNCONSUMED: depth,
            Alert.DEAD_GROWING: {"dead": sample.dead, "grown": grown},
        }
        for alert, (high, low) in looks.items():
            switch = self._switches[alert]
            lasted = switch.turn(sample.at, high=high, low=low)
            if lasted is not None:
                yield Event(alert, switch.active, facts[alert] | {"lasted_s": round(lasted)})

    def _judge_backlog(self, sample: Sample, least: float | None) -> tuple[bool | None, bool | None]:
        """Whether it is high, and whether it is low; None: unknown."""
        if sample.ready is None:
            return None, None
        known = [(sample.ready, self._limits.ready), (least, self._limits.eta)]
        high = any(value is not None and limit is not None and value > limit for value, limit in known)
        low = all(limit is None or (value is not None and value <= limit * _LOW) for value, limit in known)
        return high, low

    def _judge_dead(self, grown: int | None) -> tuple[bool | None, bool | None]:
        if grown is None:
            return None, None
        limit = self._limits.dead
        return limit is not None and grown >= limit, limit is None or grown <= limit / 2


def _judge_unconsumed(sample: Sample) -> tuple[bool | None, bool | None]:
    if sample.ready is None or sample.consumers is None:
        return None, None
    high = sample.ready > 0 and sample.consumers == 0 and not sample.paused
    return high, not high


class _Switch:
    """On when it was high for so long, off when it was low for so long."""

    def __init__(self, on_after: float, off_after: float, *, active: bool) -> None:
        self._after = {False: on_after, True: off_after}
        self._since: float | None = None
        self._on_since: float | None = None
        self.active = active

    def turn(self, at: float, *, high: bool | None, low: bool | None) -> float | None:
        """Look at it; when it turns, for how many seconds it has been as it is told now, or had been so."""
        if not (low if self.active else high):
            self._since = None
            return None
        if self._since is None:
            self._since = at
        if at - self._since < self._after[self.active]:
            return None
        began = self._on_since if self.active and self._on_since is not None else self._since
        self._on_since = None if self.active else self._since
        self.active, self._since = not self.active, None
        return at - began


class _Smooth:
    """Rates, smoothed over some time: a worker whose tasks take a minute settles nothing in most samples.

    Exponential smoothing for samples at any distance: a new rate counts as much as its time is part of the whole.
    """

    def __init__(self, over: float) -> None:
        self._over = max(over, 1.0)
        self._flow = Flow()
        self._at = 0.0

    def take(self, at: float, flow: Flow) -> Flow:
        """The smoothed rates; unknown ones begin anew."""
        weight = 1 - math.exp(-(at - self._at) / self._over)
        self._at = at
        self._flow = Flow(*(_mixed(old, new, weight) for old, new in zip(self._flow, flow, strict=True)))
        return self._flow


def _mixed(old: float | None, new: float | None, weight: float) -> float | None:
    return new if old is None or new is None else old + weight * (new - old)


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)


class _Growth:
    """How much a count has grown above its lowest of late."""

    def __init__(self) -> None:
        self._lows: deque[tuple[float, int]] = deque()

    def take(self, at: float, count: int | None) -> int | None:
        """Its growth within the window; None: unknown."""
        if count is None:
            return None
        while self._lows and self._lows[0][0] <= at - _WINDOW:
            self._lows.popleft()
        if self._lows and at - self._lows[-1][0] < _WINDOW / _STEPS:
            began, low = self._lows[-1]
            self._lows[-1] = began, min(low, count)
        else:
            self._lows.append((at, count))
        return count - min(low for _, low in self._lows)
