"""Sections `monitor` and `log` of the configuration: how the queues are watched, and what is logged.

Runs in: every process.
"""

from dataclasses import dataclass
from typing import Any

from workqueued.plain import as_plain
from workqueued.readers import choice, duration, integer, or_none, parsed
from workqueued.schema import key, read_section
from workqueued.urls import Address

#: Assigned to nobody by IANA, near RabbitMQ's own 15672 and 15692 and none of them, outside of the crowded 9100 to 9999
#: of Prometheus exporters and below Linux' ephemeral ports.
_DEFAULT_ADDRESS = Address("127.0.0.1", 15700)
_MOST_MESSAGES = 999_999_999


def _or_none(value: Any) -> Any:
    return "none" if value is None else as_plain(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """Section `monitor.alerts`: what is too much, and for how long. None: never."""

    eta: float | None = key(
        or_none(duration("1s", "365d")),
        "a queue that needs longer than this to be empty is a high backlog",
        show=_or_none,
        default=1800.0,
    )
    ready: int | None = key(
        or_none(integer(1, _MOST_MESSAGES)), "… and so is one with more ready messages", show=_or_none, default=None
    )
    after: float = key(
        duration("0s", "1d"),
        "how long a backlog has been high when it is told, or low when it is cleared",
        default=300.0,
    )
    unconsumed: float | None = key(
        or_none(duration("1s", "1d")),
        "how long messages have been ready and nobody consumes when it is told",
        show=_or_none,
        default=60.0,
    )
    dead: int | None = key(
        or_none(integer(1, _MOST_MESSAGES)),
        "so many more messages in a dead queue within an hour are told",
        show=_or_none,
        default=10,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Section `monitor`."""

    interval: float = key(duration("100ms", "1h"), "how often queue.depth is logged", default=10.0)
    listen: Address | None = key(
        or_none(parsed(Address.parse, "an address such as 127.0.0.1:15700")),
        "where metrics, health and status are served over HTTP",
        show=lambda address: "none" if address is None else str(address),
        default=_DEFAULT_ADDRESS,
    )
    alerts: Alerts = key(read_section(Alerts), "what is told as an alert", default=Alerts())


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
