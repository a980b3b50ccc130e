"""What a kernel can do to a daemon, in namespaces of its own: a link that goes dead without a word, a full disk.

Needs `unshare`, `nsenter` and `ip`, and root or user namespaces; nothing outside of the namespaces is touched.
"""

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon
from relay import Relay

#: The two ends of the link; port of the far one.
NEAR, FAR, PORT = "10.87.0.1", "10.87.0.2", 5672
#: Frames for this address are nobody's: they are dropped on arrival, and the sender hears nothing.
_NOBODY = "02:00:00:00:00:99"
_LISTEN = f"""
import socket, sys
listener = socket.create_server(({FAR!r}, {PORT}), backlog=64)
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [listener.fileno()])
"""
#: How the broker's side of the link learns that the daemon's side is gone: not what is tested, so it is quick.
_QUICK = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_USER_TIMEOUT: 3000}


def missing(what: str) -> None:
    """Something that the test needs is not there: skipped at a desk, failed in CI."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@functools.cache
def _unshare() -> tuple[str, ...]:
    """The command that makes namespaces here: with a user namespace, or else as root; empty: neither works."""
    probe = ("--net", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")  # AppArmor may give one without its powers
    for command in (("unshare", "--map-root-user"), ("unshare",)):
        with contextlib.suppress(OSError):
            if subprocess.run([*command, *probe], check=False, capture_output=True).returncode == 0:
                return command
    return ()


class Namespace:
    """A process that does nothing but hold namespaces open; it ends with the test."""

    def __init__(self, kind: str, inside: "Namespace | None" = None) -> None:
        unshare = ("unshare",) if inside else _unshare()
        if not unshare:
            missing("no namespaces here: `unshare --map-root-user --net --mount` fails, and is no use to root either")
        self._kind = kind
        self._process = subprocess.Popen(
            [*(inside.enter() if inside else ()), *unshare, f"--{kind}", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.read(1), f"unshare --{kind} failed"
        self.pid = self._process.pid

    def enter(self) -> list[str]:
        """The command that runs another one in here."""
        user = ["--user", "--preserve-credentials"] if len(_unshare()) > 1 else []
        return ["nsenter", f"--target={self.pid}", f"--{self._kind}", *user]

    def run(self, *command: str, **options: Any) -> None:
        """Run a command in here."""
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run([*self.enter(), *command], check=False, **options)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"

    def close(self) -> None:
        """End it; the namespaces go when nobody is left inside."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(10)


class Link:
    """A cable between a namespace without any other network, and a port that leads to the broker.

    The listening socket belongs to the far namespace, and the process that accepts, ours, does not: so whoever connects
    to the near end's only neighbour speaks with the broker.
    """

    def __init__(self, target: int) -> None:
        if shutil.which("ip") is None:
            missing("there is no `ip`: install iproute2")
        self.near = Namespace("net")
        self._far = Namespace("net", inside=self.near)
        self.near.run("ip", "link", "set", "lo", "up")
        self.near.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self._far.pid))
        for namespace, device, address in ((self.near, "near", NEAR), (self._far, "far", FAR)):
            namespace.run("ip", "addr", "add", f"{address}/24", "dev", device)
            namespace.run("ip", "link", "set", device, "up")
        self._relay = Relay(target, listener=self._listen()).__enter__()

    def _listen(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._far.run(sys.executable, "-c", _LISTEN, str(theirs.fileno()), pass_fds=[theirs.fileno()])
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        listener = socket.socket(fileno=descriptors[0])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # those that it accepts inherit all of this
        for option, value in _QUICK.items():
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        return listener

    def cut(self) -> None:
        """From now on, what either side sends vanishes on the way: no FIN, no RST, no carrier that is lost."""
        self.near.run("ip", "neigh", "replace", FAR, "lladdr", _NOBODY, "dev", "near", "nud", "permanent")
        self._far.run("ip", "neigh", "replace", NEAR, "lladdr", _NOBODY, "dev", "far", "nud", "permanent")

    def mend(self) -> None:
        """End a `cut`."""
        self.near.run("ip", "neigh", "del", FAR, "dev", "near")
        self._far.run("ip", "neigh", "del", NEAR, "dev", "far")

    def connections(self) -> int:
        """How many lead from the near end to the far one, as the near one's kernel sees it."""
        # proc(5): the other side's address and port, hexadecimal; 01 stands for established.
        return len(re.findall(rf":{PORT:04X} 01 ", Path(f"/proc/{self.near.pid}/net/tcp").read_text()))

    def close(self) -> None:
        """Take it all down."""
        self._relay.__exit__()
        self._far.close()
        self.near.close()


class SmallDisk:
    """A disk of its own, mounted on /mnt for those inside of its namespace; `path` is how the test sees it."""

    inside = Path("/mnt")

    def __init__(self, size: str) -> None:
        self.namespace = Namespace("mount")
        self.namespace.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(self.inside))
        self.path = Path(f"/proc/{self.namespace.pid}/root{self.inside}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Undo a `fill`."""
        (self.path / "ballast").unlink()

    def close(self) -> None:
        """Take it away, with all that is on it."""
        self.namespace.close()


class Placed(Daemon):
    """A daemon that is started through another command, such as `nsenter`, or whose log goes elsewhere."""

    through: tuple[str, ...] = ()
    #: A descriptor for its stdout; None: the log file, as ever.
    stdout: int | None = None

    def start(self, **environment: str) -> "Placed":
        """See Daemon."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.through, sys.executable, "-m", "workqueued.cli.daemon", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log if self.stdout is None else self.stdout,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "WQ_TEST_DIRECTORY": str(self.directory), **environment},
            )
        return self
