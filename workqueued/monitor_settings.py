"""Sections `monitor` and `log` of the configuration: how the queues are watched, and what is logged.

Runs in: every process.
"""

from dataclasses import dataclass

from workqueued.readers import choice, duration
from workqueued.schema import key


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Section `monitor`."""

    interval: float = key(duration("100ms", "1h"), "how often queue.depth is logged", default=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Section `log`."""

    level: str = key(
        choice("debug", "info", "warning", "error"), "the least severe events that are logged", default="info"
    )
    format: str = key(
        choice("auto", "json", "console"), "auto: console on a terminal, json elsewhere", default="auto"
    )
    settled: str = key(
        choice("info", "debug"),
        "the level of delivery.settled for messages that are done; debug: only what was not done is told",
        default="info",
    )
    target: str = key(
        choice("auto", "stdout", "journal"),
        "auto: the journal when that is where stdout would end, directly or through supervisord; stdout elsewhere",
        default="auto",
    )
