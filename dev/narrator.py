"""The narrator of `make tour`: types a command, shows what came of it in the daemon's log, and insists on it.

Runs in: the process of dev.tour.
"""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dev.stage import BIN, StageError, tell
from workqueued.node import eventually

Event = dict[str, Any]

#: How long anything may take before the tour fails, seconds.
PATIENCE = 20.0
#: After these outcomes nothing more becomes of a message by itself.
FINAL = ("done", "dead")
#: The keys that tell the story; of other events (the handlers' own) all but the ones on every line.
TELLING: Mapping[str, tuple[str, ...]] = {
    "delivery.settled": ("outcome", "reason", "attempt", "crashes", "error", "delay_s", "wait_ms", "duration_ms"),
    "handler.printed": ("line",),
    "master.stopped": ("exit_code",),
    "queue.depth": ("queue", "ready", "in_flight", "dead"),
    "worker.consuming": ("slot",),
    "worker.died": ("slot", "cause", "signal", "crashes"),
}
_ON_EVERY_LINE = ("time", "level", "event", "role", "pid", "host", "slot", "queue", "generation", "message_id")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that was run.

    Attributes:
        output: what it printed to stdout.
        began_at: when it was started, seconds since 1970.
        mark: how many events the log had then.
    """

    output: str
    began_at: float
    mark: int


class Narrator:
    """Commands, what the log says of them, and a voice.

    Args:
        log: the daemon's log, JSON, read as it grows.

    Attributes:
        sent: ids of the messages that were sent.
        replayed: ids of those that were brought back from the dead queue.
    """

    def __init__(self, log: Path) -> None:
        log.touch()
        self._file = log.open("rb")
        self._rest = b""
        self._events: list[Event] = []
        self.sent: list[str] = []
        self.replayed: list[str] = []

    def events(self, since: int = 0) -> list[Event]:
        """All that is in the log, after so many events."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        # A daemon that cannot start says why in words.
        self._events += [json.loads(line) for line in lines if line.startswith(b"{")]
        return self._events[since:]

    def run(self, command: str) -> Ran:
        """Run a command as a user would type it, and show what it prints.

        Raises:
            StageError: it fails, or takes too long.
        """
        mark = len(self.events())
        tell(f"\n$ {command}")
        began_at = time.time()
        try:
            done = subprocess.run(
                shlex.split(command), env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StageError(f"`{command}`: {error}") from error
        printed = (done.stdout + done.stderr).rstrip("\n")
        if printed:
            tell(printed)
        expect(done.returncode == 0, f"`{command}` ends with 0, not with {done.returncode}")
        return Ran(done.stdout, began_at, mark)

    def await_events(self, what: str, since: int, wanted: Callable[[Event], bool], count: int = 1) -> list[Event]:
        """Wait for so many events of a kind, show and return them.

        Raises:
            StageError: they do not come in time.
        """

        def found() -> list[Event]:
            return list(filter(wanted, self.events(since)))[:count]

        if not eventually(lambda: len(found()) == count, PATIENCE):
            raise StageError(f"{what}: {len(found())} of {count} events came within {PATIENCE:g} s")
        for event in found():
            tell(shortened(event))
        return found()

    def follow(self, ran: Ran, message_id: str, deaths: int = 0) -> list[Event]:
        """Show a message's events as they come, until it is done or dead; return them.

        Args:
            ran: what set it going.
            message_id: whose.
            deaths: how many workers must have died of it as well; the master tells that in its own time.

        Raises:
            StageError: that takes too long.
        """
        seen: list[Event] = []

        def ended() -> bool:
            mine = [event for event in self.events(ran.mark) if event.get("message_id") == message_id]
            for event in mine[len(seen) :]:
                tell(shortened(event))
                seen.append(event)
            return set(outcomes(seen)) & set(FINAL) != set() and len(died(seen)) >= deaths

        if not eventually(ended, PATIENCE):
            raise StageError(f"message {message_id} has not come to an end within {PATIENCE:g} s")
        return seen

    def follow_sent(self, ran: Ran, deaths: int = 0) -> list[Event]:
        """`follow` the message that wq-send has just sent: it prints the id."""
        message_id = ran.output.strip()
        self.sent.append(message_id)
        return self.follow(ran, message_id, deaths)


def environment() -> dict[str, str]:
    """For the commands: found without a path, and meant for our broker whatever the caller's environment says."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    ours = {key: value for key, value in os.environ.items() if not key.startswith("WQ_")}
    return {**ours, "PATH": path, "WQ_CONFIG": "workqueued.yaml"}


def expect(truth: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Insist on what is told.

    Raises:
        StageError: it is not so.
    """
    if not truth:
        raise StageError(f"expected that {what}, and it is not so")


def say(text: str) -> None:
    """Tell what was seen, below the events that showed it."""
    tell(f"  {text}")


def outcomes(events: list[Event]) -> list[str]:
    """What became of each delivery."""
    return [event["outcome"] for event in events if event["event"] == "delivery.settled"]


def died(events: list[Event]) -> list[Event]:
    """The deaths of workers."""
    return [event for event in events if event["event"] == "worker.died"]


def named(events: list[Event], name: str) -> list[Event]:
    """Those of this name."""
    return [event for event in events if event["event"] == name]


def at(event: Event) -> float:
    """When an event was logged, seconds since 1970, to the millisecond."""
    return datetime.fromisoformat(event["time"]).timestamp()


def shortened(event: Event) -> str:
    """An event for eyes: its time of day (UTC), its name, and the keys that tell the story."""
    name = event["event"]
    keys = TELLING.get(name) or [key for key in event if key not in _ON_EVERY_LINE]
    facts = " ".join(f"{key}={_shown(event[key])}" for key in keys if event.get(key) is not None)
    return f"  {event['time'][11:23]}  {name:<16}  {facts}"


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and " " in value else str(value)
