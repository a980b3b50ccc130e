"""A private RabbitMQ node, for people without a broker, for `make run` and for the tests.

Runs in: `wq-broker`, or the test process that owns a `Node`.

It is the machine's real rabbitmq-server, run as the current user, with its own data directory, cookie, epmd
and ports, on loopback only; no system service and no file outside of the directory is touched. What it starts
lives as long as the process that started it: the kernel kills RabbitMQ and epmd when their parent dies, be it
of kill -9.

RabbitMQ's start script stays in between as a shell that forwards signals, unless it runs under systemd: then
it execs erl, which execs the Erlang VM. So we tell it that it does, and the pid we started is the VM's.
"""

import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from workqueued.errors import WorkqueuedError
from workqueued.proc import is_stopped

#: Where the packages keep RabbitMQ's own scripts; those in /usr/sbin are wrappers that switch the user.
PACKAGED = Path("/usr/lib/rabbitmq/bin")

#: Ports we choose from: below Linux' ephemeral range, in which a client that reconnects to a stopped node can
#: be given the node's port as its own, connect to itself, and keep the node from coming back.
PORTS = range(20_000, 32_000)

#: Lines that say nothing: blank ones, and the inside of Erlang's crash reports, which come after the reason.
NOISE = re.compile(r"^\s*$|<[0-9.]+>( {5}|\s*$)")

#: prctl(2) option: the signal we get when our parent's thread dies.
PR_SET_PDEATHSIG = 1

# A program on the leash dies with its parent. Not a preexec_fn: that is unsafe in a process with threads. The
# parent may be gone before prctl, hence getppid. Signal masks and ignored signals (Python ignores PIPE, XFSZ)
# survive exec; a blocked TERM would be a no-op.
LEASH = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
for name in "HUP", "INT", "QUIT", "TERM", "CHLD", "CONT", "PIPE", "XFSZ":
    signal.signal(signal.Signals["SIG" + name], signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execv(sys.argv[2], sys.argv[2:])
"""

HOW_TO_GET_ONE = """there is no rabbitmq-server in {places}. To get one on Debian or Ubuntu:
    sudo apt-get install rabbitmq-server
    sudo systemctl disable --now rabbitmq-server    # the package starts a system-wide broker; this needs none
(Without systemd, a /usr/sbin/policy-rc.d that exits 101 keeps the package from starting anything.)
If it is unpacked elsewhere, set WQ_RABBITMQ_HOME to the directory that holds its sbin/.
Or use a broker that you have: set `broker: url:` in the YAML file."""


class BrokerError(WorkqueuedError):
    """The private node cannot be had, or has failed."""

    exit_code = os.EX_UNAVAILABLE


class DirectoryError(BrokerError):
    """The node's directory cannot be made or used."""

    exit_code = os.EX_CANTCREAT


class Node:
    """A private RabbitMQ node that lives in one directory and keeps its AMQP port for life.

    Args:
        directory: everything the node writes, logs in `log/`; made when missing.
        name: the part of the node's name before @localhost.
        port: its AMQP port, remembered from then on; None: the remembered one, the first time a free one.
        settings: lines of rabbitmq.conf, over our own.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "workqueued",
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.name = f"{name}@localhost"
        self.port = port or self._remembered_port() or _free_port()
        self._settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "disk_free_limit.absolute": "200MB",
            **(settings or {}),
        }
        self._console = self.directory / "log" / "console.log"
        self._log = self.directory / "log" / "rabbitmq.log"
        self._owner = os.getpid()
        self._lock: int | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._options: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The AMQP URL of the vhost /, as user guest."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def pid(self) -> int:
        """The process id of the Erlang VM."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the VM is alive (perhaps paused) and ours: after a fork it is the parent's alone."""
        return self._owner == os.getpid() and self._server is not None and self._server.poll() is None

    def start(self, timeout: float = 60) -> None:
        """Start the node; return when it has booted and speaks AMQP, after some 4 seconds.

        Raises:
            BrokerError: port or directory are in use, or the node died or is not ready in `timeout` seconds.
        """
        server = find_server()
        if threading.current_thread() is not threading.main_thread():
            # The kernel means the parent *thread* when it says that the parent died.
            raise BrokerError("start the node in the main thread: it dies with the thread that starts it")
        if self.running:
            raise BrokerError(f"the RabbitMQ node in {self.directory} runs already, pid {self.pid}")
        self._clear()
        self._owner = os.getpid()
        try:
            self._take_directory()
            self._take_port()
            self._start_epmd()
            with self._console.open("wb") as console:
                self._server = subprocess.Popen(_leashed(server), stdout=console, **self._options)
            self._await_boot(timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30) -> None:
        """Stop the node in order (SIGTERM), with SIGKILL after `timeout` seconds; its data stay."""
        self._signal(signal.SIGTERM)
        self.resume()
        eventually(lambda: not self.running, timeout)
        self.kill()

    def kill(self) -> None:
        """Kill the node, as a power cut would, and wait until it is gone; `start` works again."""
        self._signal(signal.SIGKILL)
        self._clear()

    def pause(self) -> None:
        """Freeze the node (SIGSTOP), and wait until it is: its connections stay open and silent."""
        self._signal(signal.SIGSTOP)
        eventually(lambda: not self.running or is_stopped(self._process.pid), within=5)

    def resume(self) -> None:
        """End a `pause`."""
        self._signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait until the node ends by itself; return its exit status."""
        return self._process.wait()

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """Run rabbitmqctl --quiet against the node and return what it printed.

        Raises:
            BrokerError: it failed, or took longer than `timeout` seconds; with its output.
        """
        what = f"rabbitmqctl {' '.join(arguments)}"
        if not self.running:
            raise BrokerError(f"{what}: the RabbitMQ node in {self.directory} is not running")
        command = _leashed(find_server().with_name("rabbitmqctl"), "--quiet", *arguments)
        try:
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, timeout=timeout, **self._options)
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"{what}: no answer in {timeout:g} s") from error
        output: str = done.stdout.decode(errors="replace")
        if done.returncode:
            raise BrokerError(f"{what} ended with {done.returncode}:\n{output.strip()}")
        return output

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the node's console and log, each with its file's name above."""
        parts = []
        for path in filter(Path.exists, (self._console, self._log)):
            text = [line for line in path.read_text(errors="replace").splitlines() if not NOISE.search(line)]
            parts += [f"{path}:", *(f"    {line[:200]}" for line in text[-lines:])]
        return "\n".join(parts)

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            raise BrokerError(f"the RabbitMQ node in {self.directory} was not started")
        return self._server

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    def _remembered_port(self) -> int | None:
        path = self.directory / "port"
        try:
            return int(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise DirectoryError(f"cannot read the node's port from {path}: {error}") from error

    def _take_directory(self) -> None:
        """Make the directory and its files, and keep every other process (and `Node`) out of it."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            # flock rather than a POSIX lock: two nodes in one process must exclude each other as well.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            self._write_files()
        except BlockingIOError as error:
            pid = (self.directory / "lock").read_text().strip()
            raise BrokerError(f"process {pid} already runs a RabbitMQ node in {self.directory}") from error
        except OSError as error:
            raise DirectoryError(f"cannot use {self.directory} for a RabbitMQ node: {error}") from error

    def _write_files(self) -> None:
        self._log.parent.mkdir(exist_ok=True)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            # Erlang refuses a cookie that others can read. Made aside: a half-written one would never heal.
            new = cookie.with_name("new.cookie")
            new.unlink(missing_ok=True)
            new.touch(0o600)
            new.write_text(secrets.token_hex(20))
            new.chmod(0o400)
            new.replace(cookie)
        conf = "".join(f"{key} = {value}\n" for key, value in self._settings.items())
        (self.directory / "rabbitmq.conf").write_text(conf)
        (self.directory / "enabled_plugins").write_text("[].\n")
        # @localhost must mean 127.0.0.1 to Erlang, in a container without /etc/hosts as well.
        hosts = '{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n'
        (self.directory / "inetrc").write_text(hosts)

    def _take_port(self) -> None:
        # A node whose owner was killed a moment ago needs a moment to die.
        if not eventually(lambda: _is_free(self.port), within=3):
            raise BrokerError(
                f"port {self.port} of the RabbitMQ node in {self.directory} is in use by another program;\n"
                f"end that program (ss -ltnp 'sport = :{self.port}' shows it), or give the node another\n"
                "port for good: wq-broker --port N, and the same port in `broker: url:` of the YAML file"
            )
        (self.directory / "port").write_text(f"{self.port}\n")

    def _start_epmd(self) -> None:
        """Start Erlang's port mapper ourselves: one that Erlang starts is a daemon and outlives us all."""
        port = _free_port(self.port)
        environment = self._environment(epmd_port=port, dist_port=_free_port(self.port, port))
        self._options = {
            "env": environment,
            "cwd": self.directory,
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "start_new_session": True,  # Ctrl-C in a terminal is for the owner
        }
        epmd = shutil.which("epmd", path=environment["PATH"])
        if epmd is None:
            raise BrokerError("there is no epmd in the PATH; it comes with Erlang (Debian: erlang-base)")
        self._epmd = subprocess.Popen(_leashed(epmd), stdout=subprocess.DEVNULL, **self._options)
        if not eventually(lambda: not _is_free(port), within=10):
            raise BrokerError(f"{epmd} does not listen on 127.0.0.1:{port}")

    def _environment(self, epmd_port: int, dist_port: int) -> dict[str, str]:
        """Only PATH is inherited: our caller's RABBITMQ_*, ERL_* and NOTIFY_SOCKET are not for the node."""
        files = {
            "RABBITMQ_MNESIA_BASE": "data",
            "RABBITMQ_LOG_BASE": "log",
            "RABBITMQ_LOGS": "log/rabbitmq.log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "enabled_plugins",
            "RABBITMQ_CONFIG_FILE": "rabbitmq",
            # These need not exist; unset, the files of a system-wide broker in /etc would be read.
            "RABBITMQ_CONFIG_FILES": "conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced",
            "RABBITMQ_CONF_ENV_FILE": "rabbitmq-env.conf",
            "ERL_INETRC": "inetrc",
        }
        # Else Erlang's distribution, rabbitmqctl's too, is open to the network.
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {variable: str(self.directory / file) for variable, file in files.items()} | {
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/bin",
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",  # rabbitmqctl complains about any other encoding
            "RUNNING_UNDER_SYSTEMD": "true",  # see the module's docstring
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_CRASH_DUMP_BYTES": "0",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RABBITMQ_CTL_ERL_ARGS": loopback,
        }

    def _await_boot(self, timeout: float) -> None:
        late = not eventually(lambda: not self.running or self._has_booted(), timeout)
        if late or not self.running:
            how = f"is not ready after {timeout:g} s" if late else f"ended with status {self.wait()}"
            raise BrokerError(f"the RabbitMQ node in {self.directory} {how}; its log:\n{self.log_tail()}")

    def _has_booted(self) -> bool:
        # The port opens some 70 ms before RabbitMQ says "Starting broker... completed with 0 plugins."
        return b" completed with " in self._console.read_bytes() and _speaks_amqp(self.port)

    def _clear(self) -> None:
        """Reap the VM, end epmd, let go of the directory; not in a forked child: they are its parent's."""
        if self._owner != os.getpid():
            return
        if self._server is not None:
            self._server.wait()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        if self._lock is not None:
            os.close(self._lock)
        self._epmd = self._lock = None


def find_server() -> Path:
    """Find the rabbitmq-server script: in $WQ_RABBITMQ_HOME when that is set, else the packaged one.

    Raises:
        BrokerError: there is none; the text says how to get one.
    """
    home = os.environ.get("WQ_RABBITMQ_HOME")
    places = [Path(home, "sbin"), Path(home, "bin")] if home else [PACKAGED]
    for place in places:
        if os.access(place / "rabbitmq-server", os.X_OK):
            return place / "rabbitmq-server"
    raise BrokerError(HOW_TO_GET_ONE.format(places=" or ".join(map(str, places))))


def _leashed(*command: str | Path) -> list[str]:
    return [sys.executable, "-ISc", LEASH, str(os.getpid()), *map(str, command)]


def eventually(condition: Callable[[], object], within: float) -> bool:
    """Wait until the condition holds; False when it does not within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As RabbitMQ does; else the connections of a node that has just stopped (TIME_WAIT) are in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port(*taken: int) -> int:
    for port in secrets.SystemRandom().sample(PORTS, 100):
        if port not in taken and _is_free(port):
            return port
    raise BrokerError(f"no free TCP port on 127.0.0.1 between {PORTS.start} and {PORTS.stop}")


def _speaks_amqp(port: int) -> bool:
    """Whether the protocol header is answered with a method frame (type 1): Connection.Start."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
