"""Configuration values as plain data for eyes: YAML, JSON and the log. No secret is in it.

Runs in: every process.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workqueued.readers import escaped
from workqueued.urls import BrokerUrl


def as_plain(value: Any) -> Any:
    """A configuration value as plain data for YAML or JSON; passwords and the values of `environment` redacted."""
    if isinstance(value, BrokerUrl | Path):
        return escaped(str(value))
    if isinstance(value, str):
        return escaped(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if "read" in f.metadata]
        return {f.name: (f.metadata["show"] or as_plain)(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        import decimal  # noqa: PLC0415 - for --print-config and reloads only; wq-send starts without it

        return f"{decimal.Decimal(repr(value)).normalize():f}s"  # every digit, and no exponent
    return value
