"""The stage of `make run` and `make demo`: configuration files, and the daemon under supervisord.

Runs in: the process of dev.run or dev.demo.

What is started here lives no longer than the process that started it, be that ended by kill -9.
"""

import configparser
import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from types import FrameType
from typing import Self

from workqueued.config import Config
from workqueued.errors import WorkqueuedError
from workqueued.scoreboard import Cell, Head, Kind, Row, Scoreboard, ScoreboardError, State

ROOT = Path(__file__).resolve().parent.parent
#: The commands of the virtual environment that runs us.
BIN = Path(sys.prefix, "bin")

#: The messages of RabbitMQ's tutorial: the sample handler works a second for each dot.
TUTORIAL = ("First message.", "Second message..", "Third message...", "Fourth message....", "Fifth message.....")

#: unix(7): longest path of a socket, bytes; and what supervisord adds to it while it makes the socket: ".PID".
_SOCKET_PATH, _SOCKET_SUFFIX = 107, len(".4194304")
#: A worker in one of these states takes messages.
_AT_WORK = (State.IDLE, State.BUSY, State.SETTLING)


class StageError(WorkqueuedError):
    """Something did not happen that should have."""

    exit_code = os.EX_SOFTWARE


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """The text of a YAML file with some keys set; keys that are commented out come alive, comments stay.

    Args:
        text: such as etc/workqueued.yaml's.
        changes: value, as YAML, for each key; keys of any level, so they must be unique.
    """
    for key, value in changes.items():
        lines = re.findall(rf"^(?:# )?( *{key}: ).*?( +#.*)?$", text, re.MULTILINE)
        if len(lines) != 1:
            raise StageError(f"expected one line `{key}: …` in the sample configuration, found {len(lines)}")
        text = re.sub(rf"^(?:# )?( *{key}: ).*?( +#.*)?$", rf"\g<1>{value}\g<2>", text, flags=re.MULTILINE)
    return text


class Daemon:
    """supervisord and, under it, workqueued, in the background of this process.

    Args:
        config: workqueued's configuration.
        state: the folder for supervisord's own files.
        output: the file that receives the daemon's log.
    """

    def __init__(self, config: Config, state: Path, output: Path) -> None:
        self.config = config
        self._conf = state / "supervisord.conf"
        self._output = output
        self._elsewhere: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start supervisord; the daemon follows within about a second."""
        _write_conf(self._conf, self._place_socket(), self.config.file, self._output)
        self._started_at = time.time_ns()
        supervisord = [str(BIN / "supervisord"), "--nodaemon", "--configuration", str(self._conf)]
        # setpriv: TERM when we die, whatever of. Its own process group: Ctrl-C in a terminal is for us, who then stop
        # it in order.
        self._process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", "TERM", "--", *supervisord], stdin=DEVNULL, process_group=0
        )

    @property
    def running(self) -> bool:
        """Whether supervisord is."""
        return self._process is not None and self._process.poll() is None

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until supervisord ends, or nobody reads our output any more; look around each second.

        A terminal that is closed sends HUP to the leader of its session alone; `ssh -t HOST make run` makes that
        make, which waits for us.
        """
        reader = select.poll()
        reader.register(1, 0)  # POLLHUP and POLLERR are always reported
        while self.running and not reader.poll(1000):
            look()

    def close(self) -> None:
        """Stop supervisord, which drains the daemon first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self._elsewhere is not None:
            shutil.rmtree(self._elsewhere, ignore_errors=True)

    def ctl(self, *arguments: str) -> str:
        """Run supervisorctl and return what it printed; its exit status tells less than its words."""
        command = [str(BIN / "supervisorctl"), "-c", str(self._conf), *arguments]
        done = subprocess.run(command, check=False, stdout=PIPE, stderr=STDOUT, text=True, timeout=60)
        return done.stdout.strip()

    @property
    def ctl_command(self) -> str:
        """How to call supervisorctl from the root of the repository."""
        command, conf = (os.path.relpath(path, ROOT) for path in (BIN / "supervisorctl", self._conf))
        return shlex.join([command, "-c", conf])

    @property
    def master_pid(self) -> int | None:
        """The daemon's process; None when there is none, as far as its pid file knows."""
        try:
            return int((self.config.run_directory / "pid").read_text())
        except (OSError, ValueError):
            return None

    def _place_socket(self) -> Path:
        """Where supervisorctl finds supervisord: beside its configuration, unless that path is too long."""
        path = self._conf.with_suffix(".sock")
        if len(os.fsencode(path)) + _SOCKET_SUFFIX <= _SOCKET_PATH:
            return path
        self._elsewhere = Path(tempfile.mkdtemp(prefix="workqueued-", dir="/tmp"))
        return self._elsewhere / path.name

    def workers(self) -> list[Row]:
        """The scoreboard's rows of the workers that take messages."""
        try:
            board = Scoreboard.open(self.config.run_directory)
        except ScoreboardError:
            return []
        if board[Head.EPOCH] < self._started_at:  # a file of the last run
            return []
        return [row for row in board.rows(Kind.WORKER) if row.words[Cell.PID] and row.state in _AT_WORK]


def _write_conf(conf: Path, socket: Path, config: Path, output: Path) -> None:
    """Write etc/supervisord.conf with our paths; everything else as it is shipped."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string((ROOT / "etc/supervisord.conf").read_text(encoding="utf-8"))

    def literal(path: Path | str) -> str:  # supervisord expands %(name)s
        return str(path).replace("%", "%%")

    command = shlex.join([str(BIN / "workqueued"), "--config", str(config)])
    parser["program:workqueued"]["command"] = literal(command)
    parser["program:workqueued"]["stdout_logfile"] = literal(output)
    parser["program:workqueued"]["stdout_logfile_maxbytes"] = "0"  # a terminal cannot be rotated
    fatal = str(conf.with_suffix(".fatal.log"))
    listener = [str(BIN / "python"), "-I", "-m", "workqueued.cli.fatal", fatal]
    parser["eventlistener:fatal"]["command"] = literal(shlex.join(listener))
    parser["eventlistener:fatal"]["stderr_logfile"] = literal(fatal)
    parser["supervisord"]["logfile"] = literal(conf.with_suffix(".log"))
    parser["supervisord"]["pidfile"] = literal(conf.with_suffix(".pid"))
    parser["unix_http_server"]["file"] = literal(socket)
    parser["supervisorctl"]["serverurl"] = literal(f"unix://{socket}")
    with conf.open("w") as file:
        file.write("; Made by `make run` and `make demo` from etc/supervisord.conf, anew each time.\n")
        parser.write(file)


class Interrupt:
    """Handles Ctrl-C, TERM and HUP: the first one raises KeyboardInterrupt, later ones call `hurry`."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry
        self._heard = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._heard:
            self._hurry()
            return
        self._heard = True
        raise KeyboardInterrupt


def tell(text: str) -> None:
    """Print a line; in silence when nobody reads any more (a closed terminal, `| head`)."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())
