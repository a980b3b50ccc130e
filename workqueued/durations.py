"""Durations as people write them: `500ms`, `10s`, `5m`, `2h`, `1d`.

Runs in: every process that reads a configuration or a command line, or shows a status.
"""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
#: A longer duration is as good as this one, seconds; four hundred digits would be infinite.
_LONGEST = 1e12


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `500ms`, `10s`, `5m`, `2h`, `1d`.

    Raises:
        ValueError: it is no duration.
    """
    match = DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no duration such as 500ms, 10s, 5m or 2h")
    return min(float(match[1]) * _UNITS[match[2]], _LONGEST)


def span(seconds: float) -> str:
    """A duration for eyes: 0.4s, 12s, 3m05s, 4h12m, 9d03h."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 6000:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
