"""The goals, and whether a run met them.

A goal is a bound for the median of some figures of one run; what it is when missed says why, as far as we know.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench import fairness
from bench.results import Results
from bench.systems import CELERY, DEBUG, DRAMATIQ, INFO, PIKA, C

_ONE = {"kind": "classic", "size": 100, "workers": 1, "group": "handlers"}
_QUORUM = {"kind": "quorum", "size": 100, "group": "handlers"}


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal.

    Attributes:
        what: is measured.
        sign, bound: what it shall be, `≥` or `≤` a figure.
        figures: reads them from the results; none when they were not measured.
        show: a figure in words.
        missed: why it may be missed, for the table.
        also: further figures beside it, in words.
    """

    what: str
    sign: str
    bound: float
    figures: Callable[[Results], list[float]]
    show: Callable[[float], str]
    missed: str
    also: Callable[[Results], str] = lambda _: ""

    def met(self, figure: float) -> bool:
        """Whether that is good enough."""
        return figure >= self.bound if self.sign == "≥" else figure <= self.bound


def _rate(system: str, other: str, **cell: object) -> Callable[[Results], list[float]]:
    return lambda results: results.ratios(system, other, **cell)


def _client(system: str) -> Callable[[Results], list[float]]:
    return lambda results: [one["client_us"] for one in results.of(system, **_ONE)]


def _figure(name: str) -> Callable[[Results], list[float]]:
    return lambda results: results.figures.get(name, [])


def _quotient(name: str, other: str) -> Callable[[Results], list[float]]:
    """Of two figures that were measured in turns."""

    def figures(results: Results) -> list[float]:
        pairs = zip(results.figures.get(name, []), results.figures.get(other, []), strict=True)
        return [one / two for one, two in pairs]

    return figures


def _beside(prefix: str, show: Callable[[float], str]) -> Callable[[Results], str]:
    """The same figure of the others."""

    def also(results: Results) -> str:
        medians = {system.name: results.median(f"{prefix} {system.name}") for system in (DRAMATIQ, CELERY)}
        return ", ".join(f"{name} {show(value)}" for name, value in medians.items() if value is not None)

    return also


_factor, _times, _microseconds = "{:.2f}".format, "{:.2f} ×".format, "{:.0f} µs".format
_seconds, _mib, _percent = "{:.2f} s".format, "{:.1f} MiB".format, "{:.2f} %".format


def _ideal(value: float) -> str:
    return f"{value / fairness.IDEAL:.2f}"


_SAFETY = (
    "keeper, scoreboard, time limit, verdict and reading the delivery are 17 µs of Python in a loop alone; with "
    "a wait before each task, and the broker on the same processors meanwhile, they take three times as long"
)
_TOO_QUICK = f"{_SAFETY}; and so does the line of the log, 9 µs"
_SHARED = "workers and broker share the processors, so each µs of a worker is one less for the broker"

GOALS = [
    Goal("consume rate against C, `settled: debug`", "≥", 0.80, _rate(DEBUG.name, C.name, **_ONE), _factor, _SAFETY),
    Goal("… `settled: info`", "≥", 0.65, _rate(INFO.name, C.name, **_ONE), _factor, _TOO_QUICK),
    Goal("… against pika's BlockingConnection", "≥", 1.4, _rate(INFO.name, PIKA.name, **_ONE), _times, _TOO_QUICK),
    Goal("… against Dramatiq", "≥", 3, _rate(INFO.name, DRAMATIQ.name, **_ONE), _times, _TOO_QUICK),
    Goal("… against Celery", "≥", 4, _rate(INFO.name, CELERY.name, **_ONE), _times, _TOO_QUICK),
    Goal("quorum queue, 1 worker, against C, `settled: debug`", "≥", 0.90,
         _rate(DEBUG.name, C.name, **_QUORUM, workers=1), _factor, _SAFETY),
    Goal("… `settled: info`", "≥", 0.90, _rate(INFO.name, C.name, **_QUORUM, workers=1), _factor, _TOO_QUICK),
    Goal("quorum queue, 8 workers, against C, `settled: debug`", "≥", 0.85,
         _rate(DEBUG.name, C.name, **_QUORUM, workers=8), _factor, _SHARED),
    Goal("… `settled: info`", "≥", 0.85, _rate(INFO.name, C.name, **_QUORUM, workers=8), _factor, _SHARED),
    Goal("client CPU of a task, `settled: info`", "≤", 90, _client(INFO.name), _microseconds, _TOO_QUICK),
    Goal("client CPU of a task, `settled: debug`", "≤", 55, _client(DEBUG.name), _microseconds, _SAFETY),
    Goal("`wq-send --lines`, 100,000 × 100 B, against C with 1,000 unconfirmed", "≥", 0.7,
         _quotient("bulk", "bulk C"), _factor,
         "a program in Python starts, reads, and makes each message an id, a time and a header"),
    Goal("`wq-send hello`, wall, against the shortest pika script", "≤", 1.2, _quotient("hello", "hello pika"),
         _factor, "Python starts with more modules"),
    Goal("PSS of a worker of 64, after 1,000 tasks and a collection", "≤", 4, _figure(f"memory {INFO.name}"), _mib,
         "70 KB of it are objects of its own; the rest are pages that it shared with the master until reference "
         "counts were written into them, 2.6 MiB of these when pika connects", _beside("memory", _mib)),
    Goal("idle CPU of 8 workers, all processes", "≤", 0.2, _figure(f"idle {INFO.name}"), _percent,
         "keepers look around four times in a heartbeat", _beside("idle", _percent)),
    Goal("8 workers consume after the start", "≤", 0.7, _figure(f"start {INFO.name}"), _seconds,
         "Python imports, and the first worker goes alone (the canary)", _beside("start", _seconds)),
    Goal("replacement consumes after `kill -9` of a worker", "≤", 0.3, _figure("replacement"), _seconds,
         "a fork and a connection; the rest is the broker's"),
    Goal("heavy and light messages in turn, 2 workers: makespan against the ideal", "≤", 1.05 * fairness.IDEAL,
         _figure(f"makespan {INFO.name}"), _ideal,
         "each sleep is a little longer than asked for, and messages take a moment to be published",
         _beside("makespan", _ideal)),
]  # fmt: skip
