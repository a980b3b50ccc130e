"""Ends supervisord when the daemon is beyond help, so that whoever started supervisord learns of it.

Runs in: an event listener of supervisord's, `[eventlistener:fatal]` in etc/supervisord.conf.

supervisord itself lives on, and says nothing, with a program that it has given up. systemd would show the service as
active for ever, a container would run with nothing in it.

It ends by SIGUSR1, which it does not handle. To systemd that is a failure unlike all others, which the unit excepts
from its restarts. The first process of a container is deaf to such a signal, so SIGTERM follows, which it does handle.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, SIGUSR1, Signals
from typing import TextIO

#: The program in etc/supervisord.conf; others that an operator has added are not our business.
_PROGRAM = "workqueued"
#: So many ends in a row are too many, if each comes within so many seconds of the one before. supervisord starts the
#: next one after a second. A predecessor that holds the lock (75) is gone after five, unless a person started it.
MOST_ENDS, IN_A_ROW = 20, 5.0


@dataclass(slots=True)
class Patience:
    """Tells from supervisord's events when it is enough."""

    ends: int = 0
    last: float = -IN_A_ROW

    def verdict(self, event: str, facts: Mapping[str, str], now: float) -> str | None:
        """Why the daemon is beyond help; None if it is not.

        Args:
            event: PROCESS_STATE_FATAL or PROCESS_STATE_EXITED.
            facts: of the process; `expected` is "1" for an exit code among `exitcodes`.
            now: seconds on a monotonic clock.
        """
        if facts["groupname"] != _PROGRAM:
            return None
        if event == "PROCESS_STATE_FATAL":
            return "cannot be started: see supervisord.log"
        if facts["expected"] == "1":
            return "ended with exit code 78: its configuration cannot work, see the log or try workqueued --check"
        self.ends = self.ends + 1 if now - self.last < IN_A_ROW else 1
        self.last = now
        return f"ended {self.ends} times in a row, see the log" if self.ends >= MOST_ENDS else None


def listen(events: TextIO, answers: TextIO, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Speak the event listener protocol until it is enough; returns why, or None when supervisord has gone."""
    patience = Patience()
    while True:
        answers.write("READY\n")
        answers.flush()
        header = _facts(events.readline())
        if not header:
            return None
        facts = _facts(events.read(int(header["len"])))
        reason = patience.verdict(header["eventname"], facts, clock())
        answers.write("RESULT 2\nOK")
        answers.flush()
        if reason is not None:
            return reason


def _facts(text: str) -> dict[str, str]:
    """What supervisord writes as `key:value key:value`."""
    return dict(word.split(":", 1) for word in text.split())


def end(supervisord: int, kill: Callable[[int, Signals], None] = os.kill) -> None:
    """End supervisord by SIGUSR1, or by SIGTERM where it is the first process of a container."""
    kill(supervisord, SIGUSR1)
    kill(supervisord, SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the listener; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or "SUPERVISOR_ENABLED" not in os.environ:
        print("usage, as an event listener in supervisord.conf: python -m workqueued.cli.fatal LOG", file=sys.stderr)
        return os.EX_USAGE
    supervisord = os.getppid()
    reason = listen(sys.stdin, sys.stdout)
    if reason is not None and os.getppid() == supervisord:
        _tell(reason, Path(arguments[0]))
        end(supervisord)
    return os.EX_OK


def _tell(reason: str, file: Path) -> None:
    """Log it to the journal, show it in `systemctl status`, and write it down here.

    The file is our own, as supervisord will not live to read what is in our pipe.
    """
    from workqueued import journal, logs, notify

    notify.Notifier(os.environ).rest(f"failed: workqueued {reason}")
    with contextlib.suppress(OSError), file.open("a") as stream:
        for target in ["stdout"] + ["journal"] * journal.is_ours(os.environ):
            logs.configure("info", "json", stream, target=target)
            logs.identify("supervisor")
            logs.log.error("service.failed", reason=reason)
            logs.log.flush()  # supervisord's end is ours


if __name__ == "__main__":
    sys.exit(main())
