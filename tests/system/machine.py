"""A machine: a Debian that systemd-nspawn has booted, with systemd, a RabbitMQ and no network."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Self

import yaml
from harness import eventually

SOURCES, WHEELS = "/usr/src/workqueued", "/usr/src/wheels"
CONFIG, CONF = "/etc/workqueued/workqueued.yaml", "/etc/workqueued/supervisord.conf"
HOME = "/usr/local/lib/workqueued"
#: A change of the unit that is the tests' own, gone with the next boot.
SHORTER = "/run/systemd/system/workqueued.service.d/shorter.conf"
_ENVIRONMENT = (
    *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"),
    *("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}", "SYSTEMD_PAGER=cat", "MANPAGER=cat"),
)


#: What systemd says of a start that it could not make, see `Machine.start`.
_UNMADE = re.compile(r"Failed to (?:run|spawn) 'start' task|status=219/CGROUP")


class Machine:
    """Runs as long as the block.

    Args:
        tree: a Debian; it is not changed, what the machine writes is in memory and ends with it.
        shared: a folder with `sources` and `wheels` for it.
    """

    def __init__(self, suite: str, tree: Path, shared: Path) -> None:
        self.suite = suite
        self.console = shared / "console"
        mounts = (f"--bind-ro={shared / 'sources'}:{SOURCES}", f"--bind-ro={shared / 'wheels'}:{WHEELS}")
        how = ("--quiet", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe")
        with self.console.open("wb") as console:
            # setpriv: it goes when we die, whatever of. Unified: cgroups as both Debians have them.
            nspawn = ("setpriv", "--pdeathsig", "TERM", "--", "systemd-nspawn", *how, "--volatile=overlay")
            self._process = subprocess.Popen(
                [*nspawn, f"--hostname={suite}", f"--directory={tree}", *mounts],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # halts it in order, which takes its time;
        self._process.terminate()  # the second one means at once
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def await_boot(self) -> None:
        """Wait until systemd has started everything.

        Raises:
            RuntimeError: it does not boot; the console is in the error.
        """

        def booted() -> bool:
            ended = self._process.poll() is not None
            return ended or self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

        with contextlib.suppress(AssertionError):
            eventually(booted, within=90)
        if self._process.poll() is not None or not booted():
            raise RuntimeError(f"systemd-nspawn does not boot {self.suite}:\n{self.console.read_text()[-2000:]}")

    def run(
        self, *command: str, user: str = "root", text: str = "", within: float = 150.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine to its end, with this text on stdin."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        inside = ["nsenter", "-t", (children or ["0"])[0], "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wd", "--"]
        who = [] if user == "root" else ["runuser", "-u", user, "--"]
        return subprocess.run(
            [*inside, "env", "-i", *_ENVIRONMENT, *who, *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )

    def do(self, *command: str, user: str = "root", text: str = "") -> str:
        """Run a command that must succeed; returns what it prints, its errors included."""
        done = self.run(*command, user=user, text=text)
        if done.returncode:
            state = self.run("journalctl", "-n", "20", "--no-pager").stdout
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{state}")
        return done.stdout + done.stderr

    def now(self) -> str:
        """The time as `journalctl --since` wants it."""
        return self.do("date", "+@%s.%6N").strip()

    def start(self, *units: str) -> None:
        """Start units; systemd may need a second try.

        Below a host with cgroups of both kinds it hears seconds late that a unit's control group is empty, removes it
        then, and a start that came meanwhile ends with "Failed to spawn executor: No such file or directory".
        """
        self.run("systemctl", "start", *units)
        self.do("systemctl", "start", *units)

    def upgrade(self, sources: str) -> str:
        """Install over what is there; returns what that prints. The start in it may need a second try, as `start`."""
        since = self.now()
        done = self.run("make", "-C", sources, "install")
        said = done.stdout + done.stderr
        if done.returncode:
            journal = self.do("journalctl", "-u", "workqueued", "--no-pager", "--since", since)
            assert _UNMADE.search(journal), said + journal
            self.do("systemctl", "start", "workqueued")
        return said

    def write(self, file: str, text: str, mode: str = "644") -> None:
        """Write a file, its folder included; one that is there keeps owner and mode."""
        script = 'mkdir -p "${1%/*}"; [ -e "$1" ] || install -m "$2" /dev/null "$1"; cat >"$1"'
        self.do("sh", "-c", script, "sh", file, mode, text=text)

    def read(self, file: str) -> str:
        """What is in a file."""
        return self.do("cat", file)


def files_of(machine: Machine) -> set[str]:
    """Every file that a package or an operator may have put there."""
    return set(machine.do("find", "/etc", "/usr", "/opt", "/var/lib", "/var/log", "/run", "-xdev").splitlines())


class Service:
    """workqueued on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.machine.do("systemctl", "show", "-P", name, "workqueued").strip()

    def wait(self, condition: Callable[[], object], within: float) -> None:
        """Wait for a condition; the failure tells how the unit is."""
        try:
            eventually(condition, within)
        except AssertionError as error:
            state = self.machine.run("systemctl", "status", "workqueued", "--no-pager", "-n", "40").stdout
            raise AssertionError(f"not within {within} s:\n{state}") from error

    def await_state(self, state: str, within: float = 30.0) -> None:
        """Wait for `active`, `failed` or another one."""
        self.wait(lambda: self.show("ActiveState") == state, within)

    def restart(self) -> None:
        """Restart it, and wait until it is active."""
        self.machine.run("systemctl", "restart", "workqueued")
        self.await_state("active")

    def restarts(self, since: str) -> int:
        """How often systemd has started it again since (`Machine.now`), starts it could not make itself left out.

        For those see `Machine.start`; NRestarts counts them.
        """
        journal = self.machine.do("journalctl", "-u", "workqueued", "--no-pager", "--since", since)
        return journal.count("Scheduled restart job") - len(_UNMADE.findall(journal))

    def await_successor(self, pid: str) -> None:
        """Wait until another supervisord than this one is active."""
        self.wait(lambda: self.show("MainPID") not in ("0", pid) and self.show("ActiveState") == "active", within=70)

    def master(self) -> str:
        """The master's pid."""
        return self.machine.read("/run/workqueued/pid").strip()

    def send(self, *words: str) -> str:
        """Send a message; returns its id."""
        return self.machine.do("wq-send", *words).strip()

    def records(self, *matches: str) -> list[str]:
        """What the journal has of the daemon, a line each."""
        command = ("journalctl", "-u", "workqueued", "-t", "workqueued", "-o", "cat", "--no-pager", *matches)
        return self.machine.do(*command).splitlines()

    def await_record(self, *matches: str, within: float = 20.0) -> None:
        """Wait until the journal has it."""
        self.wait(lambda: self.records(*matches), within)

    def await_settled(self, message_id: str) -> None:
        """Wait until the message has come to its end."""
        self.await_record(f"WQ_MESSAGE_ID={message_id}", "WQ_EVENT=delivery.settled")

    def configure(self, **settings: object) -> None:
        """Write the YAML file."""
        self.machine.write(CONFIG, yaml.safe_dump(settings, sort_keys=False))

    def drop_in(self, *lines: str) -> None:
        """Change the unit, as an operator would."""
        text = "\n".join(["[Service]", *lines, ""])
        self.machine.write("/etc/systemd/system/workqueued.service.d/test.conf", text)
        self.machine.do("systemctl", "daemon-reload")
