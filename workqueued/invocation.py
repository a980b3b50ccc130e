"""How a command is called: where the program is, and what it is told in its environment.

Runs in: worker; `workqueued --check`.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workqueued import groups
from workqueued.errors import ConfigError
from workqueued.task import Task

#: The variables that tell a command of its message, one by one: what else begins with WQ_ is passed on.
OWN = frozenset(
    {
        groups.RUN,
        "WQ_QUEUE",
        "WQ_ATTEMPT",
        "WQ_REDELIVERED",
        "WQ_HEADERS",
        "WQ_MESSAGE_ID",
        "WQ_TYPE",
        "WQ_CONTENT_TYPE",
        "WQ_CORRELATION_ID",
        "WQ_DEADLINE",
    }
)


def find_program(name: str, environment: Mapping[str, str], key: str) -> str:
    """The path of a program: looked up in the PATH, or with a slash in its name as it is.

    Args:
        name: the first word of the command.
        environment: has the PATH.
        key: where that word stands, for the text.

    Raises:
        ConfigError: there is none, or it cannot be executed.
    """
    if "/" not in name:
        search = environment.get("PATH", os.defpath)
        found = shutil.which(name, path=search)
        if found is None:
            raise ConfigError(
                f"{key}: there is no program {name!r} in the PATH, {search}; install it, write its whole path, "
                "or set PATH under environment"
            )
        return found
    path = Path(name)
    try:
        if path.is_dir():
            raise ConfigError(f"{key}: {name} is a directory; name a program")
        if not path.exists():
            where = "" if path.is_absolute() else f" (from {Path.cwd()}, where the daemon was started)"
            raise ConfigError(f"{key}: there is no {name}{where}; install it, or correct the path")
    except (OSError, ValueError) as error:  # a folder that we may not look into, a NUL
        raise ConfigError(f"{key}: {name!r} cannot be looked at: {error}") from error
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{key}: {name} is not executable for uid {os.geteuid()}; chmod +x it")
    return name


def facts(task: Task, token: str) -> dict[bytes, bytes]:
    """What a command is told of its message, as environment variables; what a message has not is not set.

    A variable holds any bytes but NUL, which is replaced; names are ours alone.
    """
    deadline = task.deadline
    variables = {
        groups.RUN: token,
        "WQ_QUEUE": task.queue,
        "WQ_ATTEMPT": str(task.attempt),
        "WQ_REDELIVERED": "1" if task.redelivered else "0",
        "WQ_HEADERS": _as_json(task.headers),
        "WQ_MESSAGE_ID": task.message_id,
        "WQ_TYPE": task.type,
        "WQ_CONTENT_TYPE": task.content_type,
        "WQ_CORRELATION_ID": task.correlation_id,
        # Whole seconds, which a shell can calculate with.
        "WQ_DEADLINE": None if deadline is None else str(int(deadline)),
    }
    return {
        name.encode(): value.encode("utf-8", "replace").replace(b"\0", b"?")
        for name, value in variables.items()
        if value
    }


def _as_json(headers: Mapping[str, Any]) -> str:
    """The headers as a JSON object in ASCII; a value that JSON has not becomes text."""
    if not headers:
        return "{}"
    try:
        return json.dumps(headers, default=_as_text, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return json.dumps({str(name): _as_text(value) for name, value in headers.items()})


def _as_text(value: Any) -> str | int | None:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except (ValueError, RecursionError):
        return "(cannot be shown)"


def encoded(words: Iterable[str], key: str) -> list[bytes]:
    """Words of the configuration as a program gets them.

    Args:
        words: arguments, or values of variables.
        key: where they stand, for the text.

    Raises:
        ConfigError: a program cannot be given such a word.
    """
    try:
        found = [os.fsencode(word) for word in words]
    except UnicodeError as error:
        raise ConfigError(f"{key}: a text has characters that no program can be given: {error}") from error
    if any(b"\0" in word for word in found):
        raise ConfigError(f"{key}: a text has a NUL character, which no program can be given")
    return found
