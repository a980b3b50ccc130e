"""docs/configuration.md says what the code does."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from workqueued.broker_settings import Broker, Tls
from workqueued.config import Config
from workqueued.monitor_settings import Alerts, Log, Monitor
from workqueued.plain import as_plain
from workqueued.queue_settings import Limits, Queue, Recycling, RetryPolicy

DOCS = Path(__file__).parents[2] / "docs/configuration.md"
SECTIONS: dict[str, type[Any]] = {
    "": Config,
    "broker.": Broker,
    "broker.tls.": Tls,
    "queues.<name>.": Queue,
    "queues.<name>.retry.": RetryPolicy,
    "queues.<name>.recycle.": Recycling,
    "queues.<name>.limits.": Limits,
    "monitor.": Monitor,
    "monitor.alerts.": Alerts,
    "log.": Log,
}
NOT_LEAVES = ("broker", "tls", "queues", "monitor", "log", "retry", "recycle", "limits", "alerts")


def documented() -> dict[str, str]:
    """The table: key and default."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOCS.read_text(), re.MULTILINE)
    return {key: default.strip("` ") for key, default in rows}


def real() -> dict[str, str]:
    """The keys of the code and their defaults, in the words of the table."""
    found = {}
    for prefix, section in SECTIONS.items():
        for field in dataclasses.fields(section):
            if "read" in field.metadata and field.name not in NOT_LEAVES:
                found[prefix + field.name] = in_words(field)
    return found


def in_words(field: "dataclasses.Field[Any]") -> str:
    """A default as a person writes it."""
    if field.default is dataclasses.MISSING:
        return "–"  # noqa: RUF001 - as in the table
    plain = (field.metadata["show"] or as_plain)(field.default)
    if plain in (None, []):
        return "none"
    if isinstance(plain, list):
        return str(plain[0]).replace("***", "guest")
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def test_every_key_is_documented_with_its_default() -> None:
    """And no key that does not exist."""
    assert documented() == real()
