"""Stop times: does whoever stops us wait for as long as we may need? From the files of supervisord and systemd.

Runs in: master, `workqueued --check`.

    drain_timeout + 5 s  <  stopwaitsecs of supervisord  <  TimeoutStopSec of systemd

Where one waits for less than the one inside of it, running tasks are killed in the middle, and done again. What is not
installed is not looked for further: neither supervisord nor systemd is needed.
"""

import configparser
import itertools
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workqueued.paths import SYSTEM_FILE

#: Where systemd looks for a system's units, the first one wins (systemd.unit(5)).
UNIT_FOLDERS = tuple(
    Path(folder, "systemd/system") for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
_UNIT = "workqueued.service"
#: Defaults of supervisord.conf and systemd-system.conf(5), seconds.
_STOPWAITSECS, _TIMEOUT_STOP_SEC = 10.0, 90.0
#: systemd.time(7), seconds; what stands without a unit is in seconds.
_UNITS = {
    "us usec µs": 1e-6,
    "ms msec": 1e-3,
    "s sec second seconds": 1.0,
    "m min minute minutes": 60.0,
    "h hr hour hours": 3600.0,
    "d day days": 86400.0,
    "w week weeks": 604800.0,
    "M month months": 2629800.0,
    "y year years": 31557600.0,
}
_SECONDS = {"": 1.0} | {name: seconds for names, seconds in _UNITS.items() for name in names.split()}
_SPAN = re.compile(r"(\d+(?:\.\d*)?)\s*([A-Za-zµ]*)\s*")


@dataclass(frozen=True, slots=True)
class Stop:
    """How long one of them takes for a stop, or waits for one: `name` says what, and where it stands."""

    name: str
    seconds: float


def look(file: Path, need: float, folders: Sequence[Path] = UNIT_FOLDERS) -> list[Stop]:
    """From the inside out: what a stop may need, and how long supervisord and systemd wait, where they run this file.

    Args:
        file: the configuration.
        need: `drain_timeout` and the time after it, seconds.
        folders: where units lie.
    """
    stops = [Stop("drain_timeout, and 5 s to hand messages back", need)]
    conf = file.parent / "supervisord.conf"
    if (waits := _of_supervisord(_read([conf], (";", "#")), file)) is not None:
        stops.append(Stop(f"stopwaitsecs in {conf}", waits))
    unit = _read(_unit_files(folders))
    if unit.has_section("Service"):
        starts = unit.get("Service", "ExecStart", fallback="") or ""
        if str(conf) in starts or str(file) in starts:
            stops.append(Stop(f"TimeoutStopSec of {_UNIT}", _of_systemd(unit)))
    return stops


def contradictions(stops: Iterable[Stop]) -> list[tuple[str, str]]:
    """Who waits too short for what is inside of it: what is wrong, and what to do."""
    return [
        (
            f"{outer.name} is {_words(outer.seconds)}, and must be longer than {inner.name}: {_words(inner.seconds)}",
            "lengthen the one or shorten the other: what has not stopped by then is killed, and done again",
        )
        for inner, outer in itertools.pairwise(stops)
        if outer.seconds <= inner.seconds
    ]


def parse_span(text: str) -> float | None:
    """Seconds of a time span as systemd writes it, such as `1min 30s`; None: it is none."""
    text = text.strip()
    if text == "infinity":
        return math.inf
    found = list(_SPAN.finditer(text))
    if not found or "".join(match[0] for match in found) != text or any(m[2] not in _SECONDS for m in found):
        return None
    return sum(float(match[1]) * _SECONDS[match[2]] for match in found)


def _words(seconds: float) -> str:
    return "without an end" if seconds == math.inf else f"{seconds:g} s"


def _read(files: Iterable[Path], inline_comments: tuple[str, ...] = ()) -> configparser.RawConfigParser:
    """Files of either kind, the later ones over the earlier; what is missing, unreadable or broken is left out."""
    parser = configparser.RawConfigParser(
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=inline_comments or None,
        strict=False,
        allow_no_value=True,
        default_section="",
    )
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # systemd's keys are case-sensitive
    for file in files:
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
    return parser


def _of_supervisord(conf: configparser.RawConfigParser, file: Path) -> float | None:
    """The stopwaitsecs of the program that runs this configuration."""
    for section in conf.sections():
        if section.startswith("program:") and _runs(conf.get(section, "command", fallback="") or "", file):
            waits = conf.get(section, "stopwaitsecs", fallback=None)
            return float(waits) if waits and waits.isdecimal() else _STOPWAITSECS
    return None


def _runs(command: str, file: Path) -> bool:
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    if not words or Path(words[0]).name != "workqueued":
        return False
    named = [
        word.removeprefix("--config=")
        for before, word in itertools.pairwise(words)
        if before == "--config" or word.startswith("--config=")
    ]
    return str(file) in (named or [str(SYSTEM_FILE)])


def _unit_files(folders: Sequence[Path]) -> list[Path]:
    """The unit's own file and its drop-ins, in the order in which systemd reads them (systemd.unit(5))."""
    units = [folder / _UNIT for folder in folders if (folder / _UNIT).is_file()][:1]
    drop_ins: dict[str, Path] = {}
    for folder in reversed(folders):
        drop_ins |= {file.name: file for file in (folder / f"{_UNIT}.d").glob("*.conf")}
    return [*units, *(drop_ins[name] for name in sorted(drop_ins))]


def _of_systemd(unit: configparser.RawConfigParser) -> float:
    waits = _TIMEOUT_STOP_SEC
    for key, value in unit.items("Service"):  # in the order of the file
        if key in ("TimeoutStopSec", "TimeoutSec"):
            span = _TIMEOUT_STOP_SEC if not value else parse_span(value)
            waits = waits if span is None else span or math.inf  # 0 stands for infinity
    return waits
