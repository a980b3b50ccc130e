"""Notify: tells systemd that the service is up, how it is in words, and that the master's loop turns.

Runs in: master.

sd_notify(3): datagrams to the socket in $NOTIFY_SOCKET. Through supervisord they come from a grandchild of the unit's
main process, so the unit needs `NotifyAccess=all`, and $WATCHDOG_PID, which names supervisord, says nothing about us.
"""

import contextlib
import socket
from collections.abc import MutableMapping

from workqueued.datagrams import await_read

#: How often the words are brought up to date, seconds; and while much changes.
_RHYTHM, _SOON = 10.0, 1.0
#: systemd ends the service when it heard nothing for $WATCHDOG_USEC; we speak so many times as often.
_TIMES = 3
#: How long the last word waits until systemd has read it, seconds.
_PATIENCE = 1.0


class Notifier:
    """The line to systemd; without one, nothing is sent.

    Args:
        environ: its variables are taken out, as they are not for what we start (a command could end our watchdog).
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environ.pop("WATCHDOG_USEC", "")
        environ.pop("WATCHDOG_PID", None)
        self._watchdog = watchdog
        self._watched = watchdog.isdecimal() and int(watchdog) > 0
        self._rhythm = min(_RHYTHM, int(watchdog) / 1e6 / _TIMES) if self._watched else _RHYTHM
        self._due = 0.0
        self._said = ""
        self._told_ready = False

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    def due(self, now: float) -> bool:
        """Whether it is time for `turned`."""
        return self.listens and now >= self._due

    def next_deadline(self) -> float | None:
        """When it is, monotonic seconds; None: never."""
        return self._due if self.listens else None

    def turned(self, now: float, words: str, *, soon: bool = False) -> None:
        """The master's loop turned: all is as the words say; `soon`: there will be others before long."""
        self._due = now + (min(self._rhythm, _SOON) if soon else self._rhythm)
        lines = ["WATCHDOG=1"] if self._watched else []
        if words != self._said:
            self._said = words
            lines.append(f"STATUS={words}")
        self._send(lines)

    def hasten(self) -> None:
        """Let the words be brought up to date now."""
        self._due = 0.0

    def ready(self) -> None:
        """The service is up; said once."""
        if not self._told_ready:
            self._told_ready = True
            # The master before us may have put the watchdog to rest.
            self._send([f"WATCHDOG_USEC={self._watchdog}"] * self._watched + ["READY=1"])

    def rest(self, words: str) -> None:
        """We end because somebody wanted it: no watchdog until the next master's first turn.

        Never STOPPING=1: after `supervisorctl stop` or `restart` systemd would take the whole unit for one that ends,
        and kill it when TimeoutStopSec is over. What comes from a process that is gone when it reads, it ignores
        (systemd issue 2737), so we wait for it.
        """
        self._send(["WATCHDOG_USEC=0"] * self._watched + [f"STATUS={words}"], patience=_PATIENCE)

    def _send(self, lines: list[str], patience: float = 0.0) -> None:
        if not self._address or not lines:
            return
        # A systemd that does not read is no reason to wait: the next turn says it again.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)  # noqa: FBT003 - its only argument
            to.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
            await_read(to, patience)
