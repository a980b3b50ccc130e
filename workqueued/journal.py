"""The journal: log records as datagrams in systemd's own protocol.

Runs in: every process of the daemon.

Every way through supervisord's pipe breaks something: it splits long lines, or puts its name before them. A datagram is
whole whatever its length, comes with fields that `journalctl WQ_MESSAGE_ID=…` finds, and belongs to the unit all the
same, as journald asks the kernel who sent it (systemd.io, "Native Journal Protocol").
"""

import contextlib
import errno
import os
import socket
import weakref
from collections.abc import Mapping
from typing import Any

from workqueued.datagrams import await_read
from workqueued.errors import ConfigError

#: Where journald listens (systemd-journald.service(8)).
SOCKET = "/run/systemd/journal/socket"
#: Bytes of a record's text; the kernel lets a datagram have some 200 KiB (net.core.wmem_default).
LONGEST = 128 * 1024
#: syslog(3).
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}
#: Facts that become fields: what one looks for. All of them are in the text as well.
_FIELDS = ("event", "role", "slot", "queue", "message_id", "type", "outcome", "reason")
_LONGEST_FIELD = 512
#: How long a process that ends waits for journald, seconds.
_PATIENCE = 1.0


class JournalSink:
    """Sends records to journald. It never waits: the outlet does, and counts what is dropped."""

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            ConfigError: there is no journal here.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # As much as the kernel lets us have (net.core.wmem_max): there is room only while a quarter of it is in use.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 2**20)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"log.target: found journal, and {path} cannot be reached ({error.strerror}); "
                "expected a host with systemd-journald: use auto or stdout"
            ) from error
        self._socket.setblocking(False)  # noqa: FBT003 - its only argument
        weakref.finalize(self, self._socket.close)

    def fileno(self) -> int:
        """The descriptor to poll for room."""
        return self._socket.fileno()

    def write(self, record: str | bytes) -> bool:
        """Send one datagram, as `datagram` makes it."""
        data = record if isinstance(record, bytes) else record.encode()
        try:
            return self._socket.send(data) == len(data)
        except OSError as error:
            # The socket was made anew, as when systemd's socket unit is restarted; then we are not connected any more.
            if error.errno not in (errno.ECONNREFUSED, errno.ENOTCONN):
                return False
        try:
            self._socket.connect(self._path)
            return self._socket.send(data) == len(data)
        except OSError:
            return False

    def flush(self, patience: float = _PATIENCE) -> None:
        """Wait until journald has dealt with what was sent, or for so many seconds: before a process ends.

        It looks the sender of a record up in /proc when it reads it, and what it finds it keeps. One that ends with its
        first words would be nobody's, and missing in `journalctl -u` (systemd issue 2913). An empty datagram it passes
        over; when that has been read, what came before has been dealt with. The socket is shared with other processes
        of the daemon, which may keep it from ever being empty.
        """
        with contextlib.suppress(OSError):  # there is no room for it: then there is all the more to wait for
            self._socket.send(b"")
        with contextlib.suppress(OSError):
            await_read(self._socket, patience)


def datagram(text: str, facts: Mapping[str, Any]) -> bytes:
    """A record of the journal: the text as its message, and fields.

    Args:
        text: one line.
        facts: of the event; those that one may look for become fields `WQ_…`.
    """
    parts = [
        _field("MESSAGE", text),
        b"SYSLOG_IDENTIFIER=workqueued\n",
        b"PRIORITY=%d\n" % _PRIORITY.get(str(facts.get("level")), 6),
    ]
    for name in _FIELDS:
        value = facts.get(name)
        if value is not None:
            parts.append(_field(f"WQ_{name.upper()}", str(value)[:_LONGEST_FIELD]))
    return b"".join(parts)


def _field(name: str, value: str) -> bytes:
    """One field; a value with a newline in it is written with its length."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%s=%s\n" % (name.encode(), data)


def is_ours(environ: Mapping[str, str]) -> bool:
    """Whether what we say on stdout or stderr would end in the journal: ours, or that of the supervisord above us.

    systemd tells a service the journal's stream by device and inode, $JOURNAL_STREAM (systemd.exec(5)). The variable
    alone proves nothing, since everything that a service starts inherits it. Whoever is run by a supervisord has pipes
    in the place of its streams.
    """
    stream = environ.get("JOURNAL_STREAM")
    if not stream or not os.path.exists(SOCKET):  # noqa: PTH110 - pathlib is not imported here
        return False
    processes = ["self", str(os.getppid())] if "SUPERVISOR_ENABLED" in environ else ["self"]
    return any(_stream_of(process, number) == stream for process in processes for number in (1, 2))


def _stream_of(process: str, number: int) -> str | None:
    try:
        info = os.stat(f"/proc/{process}/fd/{number}")  # noqa: PTH116
    except OSError:
        return None
    return f"{info.st_dev}:{info.st_ino}"
