"""Paths: where an installed service keeps its things, and which configuration a command means.

Runs in: every process. It imports next to nothing, as `wq-status` is to answer at once.
"""

import hashlib
import os
import re
import sys
from pathlib import Path

#: Where an installed service keeps its configuration, and its run directory where that names none.
SYSTEM_FILE = Path("/etc/workqueued/workqueued.yaml")
RUN_DIRECTORY = Path("/run/workqueued")
#: Who may read both, and so send, see the status and work on dead letters.
GROUP = "workqueued"
#: Files in the run directory.
LOCK_FILE, PID_FILE = "lock", "pid"

#: Digits of a short hash.
_DIGITS = 12

#: What surely is the one key `run_directory` of a YAML file, with a value that surely is text and nothing but text.
_KEY = "run_directory"
_PLAIN = re.compile(rf"^{_KEY}:[ \t]+([A-Za-z/][\w./-]*|\.\.?/[\w./-]*)[ \t]*(?:#.*)?$", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
#: Words that YAML 1.1 takes for something else than text.
_NO_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def find_config() -> Path:
    """The configuration of a command that was given none.

    `$WQ_CONFIG`, or the one that belongs to this Python environment (`etc/workqueued/` under `sys.prefix`, as a
    virtual environment's own), or the system's.
    """
    chosen = os.environ.get("WQ_CONFIG")
    if chosen:
        return Path(chosen)
    own = Path(sys.prefix) / "etc/workqueued/workqueued.yaml"
    # Resolved: it may be a link to a file whose own folder is what its relative paths are meant from.
    return own.resolve() if own.exists() else SYSTEM_FILE


def short_hash(content: bytes) -> str:
    """The first digits of what sha256sum prints for a file with this content."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def changed(file: Path, known: str | None) -> bool | None:
    """Whether a configuration is another one than that with this short hash; None: nobody can tell."""
    try:
        return None if known is None else short_hash(file.read_bytes()) != known
    except OSError:
        return None


def glean_run_directory(file: Path, content: str) -> Path | None:
    """The run directory that a configuration names in the plain way; None: it takes a reader of YAML to tell.

    It costs a tenth of reading the whole file, and tells also when there is a mistake elsewhere in it.
    """
    told = _COMMENT.sub("", content)
    if told.count(_KEY) == 0 and "\\" not in told:
        return RUN_DIRECTORY
    found: list[str] = _PLAIN.findall(told)
    if told.count(_KEY) != 1 or len(found) != 1 or found[0].lower() in _NO_TEXT:
        return None
    try:
        return (file.absolute().parent / found[0]).resolve()
    except (RuntimeError, OSError):  # symbolic links in a circle
        return None
