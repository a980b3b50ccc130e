"""Who may do what on the host: the service, a member of its group, and a stranger; as real users with real modes."""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from harness import Vhost, eventually
from links import missing

#: Users and groups need no names.
SERVICE, MEMBER, STRANGER = 64_001, 64_002, 64_003
#: What our commands import. A clone may lie in a folder that only its owner can enter, and so may Python.
_PACKAGES = ("workqueued", "pika", "yaml", "structlog", "setproctitle", "tqdm", "prometheus_client", "waitress")
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_NOT_NEEDED = shutil.ignore_patterns("site-packages", "test", "idlelib", "ensurepip", "config-*", "*.a")


@functools.cache
def as_root() -> tuple[str, ...]:
    """What makes a command run as root: nothing for root, else sudo if it does not ask."""
    if os.geteuid() == 0:
        return ()
    with contextlib.suppress(OSError):
        if subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0:
            return ("sudo", "-n")
    missing("another user can be had by root only, or with a sudo that does not ask")
    raise AssertionError


@dataclass(frozen=True)
class Host:
    """An installed service as `make install` leaves it, below a folder of its own."""

    folder: Path
    vhost: Vhost
    programs: Path

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.folder / "etc/workqueued.yaml"

    @property
    def run_directory(self) -> Path:
        """Where the scoreboard lies."""
        return self.folder / "var/run"

    def command(
        self, user: int, *words: str, groups: int | None = None, environment: Mapping[str, str] | None = None
    ) -> list[str]:
        """A command of ours as this user."""
        home = self.programs / "python"
        return [
            *as_root(),
            *("setpriv", f"--reuid={user}", f"--regid={user}"),
            f"--groups={groups}" if groups else "--clear-groups",
            *("env", "-i", "-C", "/", "PATH=/usr/bin:/bin", f"PYTHONPATH={self.programs / 'site'}"),
            *(f"PYTHONHOME={home}", f"LD_LIBRARY_PATH={home / 'lib'}"),
            *(f"{name}={value}" for name, value in (environment or {}).items()),
            *("sh", "-c", 'umask 077; exec "$@"', "sh", str(home / "bin" / _PYTHON), "-m"),
            *words,
        ]

    def run(
        self, user: int, *words: str, groups: int | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, run to its end."""
        return subprocess.run(
            self.command(user, *words, groups=groups, environment=environment),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        )


def _put(content: str, target: Path, owner: int, mode: str, folder: Path) -> None:
    """Make a file as `install` does."""
    (folder / "new").write_text(content)
    subprocess.run(
        [*as_root(), "install", "-o", "0", "-g", str(owner), "-m", mode, folder / "new", target], check=True
    )
    (folder / "new").unlink()


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Python and our packages where everybody can get at them; the folder of pytest is its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="wq-programs-"))
    try:
        folder.chmod(0o755)
        for name in _PACKAGES:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, folder / "site" / name)
        base = Path(sys.base_prefix)
        if all(place.stat().st_mode & 0o5 == 0o5 for place in (base, *base.parents)):
            (folder / "python").symlink_to(base)
        else:
            shutil.copytree(base / "lib" / _PYTHON, folder / "python/lib" / _PYTHON, ignore=_NOT_NEEDED)
            (folder / "python/bin").mkdir()
            for file in (base / "bin" / _PYTHON, *(base / "lib").glob("libpython*.so*")):
                shutil.copy2(file, folder / "python" / file.parent.name)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def host(vhost: Vhost, programs: Path) -> Iterator[Host]:
    """The files of a service, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="wq-access-"))
    try:
        folder.chmod(0o755)
        for name, owner, mode in ("etc", 0, "750"), ("var", SERVICE, "755"):
            subprocess.run(
                [*as_root(), "install", "-d", "-o", str(owner), "-g", str(SERVICE), "-m", mode, folder / name],
                check=True,
            )
        made = Host(folder, vhost, programs)
        config = {
            "broker": {"url": vhost.url.replace("guest:guest", "guest"), "password_file": "broker-password"},
            "queues": {"task_queue": {"handler": "workqueued.samples:dots", "type": "classic"}},
            "run_directory": str(made.run_directory),
            "monitor": {"interval": "200ms"},
        }
        _put(yaml.safe_dump(config), made.file, SERVICE, "640", folder)
        _put("guest\n", made.file.with_name("broker-password"), SERVICE, "640", folder)
        yield made
    finally:
        subprocess.run([*as_root(), "rm", "-rf", folder], check=True)


@pytest.fixture
def service(host: Host) -> Iterator[Host]:
    """The same with the daemon running as the service's user, under a umask that gives nobody anything."""
    log = host.folder / "log"
    with log.open("wb") as stream:
        daemon = subprocess.Popen(
            host.command(SERVICE, "workqueued.cli.daemon", "--config", str(host.file)),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )
    try:
        eventually(lambda: b"worker.consuming" in log.read_bytes() or daemon.poll() is not None, 20, "consuming")
        assert daemon.poll() is None, log.read_text()
        yield host
    finally:
        daemon.terminate()  # sudo passes it on
        daemon.wait(30)


def test_a_member_of_the_group_sends_sees_the_status_and_works_on_dead_letters(service: Host) -> None:
    """Reads the configuration, the password file and the scoreboard; writes none, nor to any folder."""
    config = ("--config", str(service.file))
    sent = service.run(MEMBER, "workqueued.cli.send", *config, "hello", groups=SERVICE)
    assert (sent.returncode, sent.stderr) == (0, "")

    def status() -> dict[str, object]:
        seen = service.run(MEMBER, "workqueued.cli.status", *config, "--json", groups=SERVICE)
        assert seen.returncode == 0, seen.stderr
        found: dict[str, object] = json.loads(seen.stdout)
        return found

    assert status()["state"] == "running"
    eventually(lambda: '"done": 1' in json.dumps(status()), 20, "the message is done")
    service.vhost.publish("task_queue.dead", "dead", message_id="m")
    listed = service.run(MEMBER, "workqueued.cli.dead", *config, "list", groups=SERVICE)
    assert ("m " in listed.stdout, listed.returncode) == (True, 0), listed.stderr
    discarded = service.run(MEMBER, "workqueued.cli.dead", *config, "discard", "m", "--yes", groups=SERVICE)
    assert discarded.returncode == 0, discarded.stderr
    assert service.vhost.count("task_queue.dead") == 0


def test_a_stranger_is_told_how_to_get_in_and_can_send_with_an_address(service: Host) -> None:
    """78, as a configuration that cannot be read always is; whatever the daemon's files say, they are not read."""
    config = ("--config", str(service.file))
    for module, words, hint in (
        ("send", ["hello"], "ask to be put into group workqueued, or set WQ_URL=amqp://user:password@host"),
        ("dead", ["list"], "ask to be put into group workqueued, or set WQ_URL=amqp://user:password@host"),
        ("status", [], "ask to be put into group workqueued; or name a --run-directory"),
    ):
        refused = service.run(STRANGER, f"workqueued.cli.{module}", *config, *words)
        assert refused.returncode == os.EX_CONFIG
        assert f"{service.file}: cannot read it: Permission denied; {hint}" in refused.stderr
    refused = service.run(STRANGER, "workqueued.cli.status", "--run-directory", str(service.run_directory))
    assert (refused.returncode, "Permission denied" in refused.stderr) == (os.EX_IOERR, True)
    with_url = {"WQ_URL": service.vhost.url, "WQ_CONFIG": str(service.file)}
    sent = service.run(STRANGER, "workqueued.cli.send", "--queue", "task_queue", "hello", environment=with_url)
    assert sent.returncode == 0, sent.stderr
    nameless = service.run(STRANGER, "workqueued.cli.send", "hello", environment=with_url)
    assert (nameless.returncode, "with a URL (or $WQ_URL) there is no default" in nameless.stderr) == (64, True)


def test_a_password_file_that_may_not_be_read_is_told_alike(host: Host) -> None:
    """The configuration is open to all, and has no secret."""
    file = host.folder / "open.yaml"
    file.write_text("queues: {q: {handler: 'a:b'}}\nbroker: {password_file: etc/broker-password}\n")
    file.chmod(0o644)
    refused = host.run(STRANGER, "workqueued.cli.send", "--config", str(file), "hello")
    assert refused.returncode == os.EX_CONFIG
    assert "broker.password_file: cannot read" in refused.stderr
    assert "ask to be put into group workqueued" in refused.stderr


def test_the_run_directory_is_open_to_the_group_whatever_the_umask(service: Host) -> None:
    """Which was 077. Nobody but the service writes there."""
    def mode(path: Path) -> tuple[str, int, int]:
        told = subprocess.run([*as_root(), "stat", "-c", "%a %u %g", path], check=True, capture_output=True, text=True)
        bits, user, group = told.stdout.split()
        return bits, int(user), int(group)

    assert mode(service.run_directory) == ("750", SERVICE, SERVICE)
    for name in ("scoreboard", "lock"):
        assert mode(service.run_directory / name) == ("640", SERVICE, SERVICE)
