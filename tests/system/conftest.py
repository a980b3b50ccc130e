"""A machine for each Debian, on which `tests/system/first_ten_minutes` has installed the service."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

from system.debian import PYTHONS, copy_sources, fill_wheelhouse, tree
from system.machine import CONF, CONFIG, SHORTER, Machine, Service, files_of

TESTS = Path(__file__).parent
_TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv")


class OneMachineEach(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Both Debians are tested at the same time, and each by one process of pytest-xdist."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.rpartition("[")[2]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneMachineEach:
    """The hook of pytest-xdist."""
    return OneMachineEach(config, log)


def _unavailable(why: str) -> NoReturn:
    """A machine cannot be had: no reason to fail at a desk."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session", params=list(PYTHONS))
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Debian 12, and Debian 13, that run."""
    if os.geteuid() != 0:
        _unavailable("tests/system needs root: it boots a Debian with systemd-nspawn")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        _unavailable(f"tests/system needs {', '.join(missing)}: apt-get install debootstrap systemd-container")
    shared = tmp_path_factory.mktemp("shared")
    try:
        fill_wheelhouse(request.param, shared / "wheels")
        copy_sources(shared / "sources")
        with Machine(request.param, tree(request.param), shared) as machine:
            machine.await_boot()
            yield machine
    except RuntimeError as error:
        _unavailable(str(error))


@pytest.fixture(scope="session")
def files_before(machine: Machine) -> set[str]:
    """What is on the machine before anything of ours is."""
    return files_of(machine)


@pytest.fixture(scope="session")
def first_ten_minutes(machine: Machine, files_before: set[str]) -> str:
    """The transcript of a new user's first ten minutes, after which the service is installed and stopped."""
    machine.start("rabbitmq-server")
    done = machine.run("bash", "-s", text=(TESTS / "first_ten_minutes").read_text(), within=400)
    transcript = done.stdout + done.stderr
    (machine.console.parent / "first_ten_minutes").write_text(transcript)
    assert done.returncode == 0, transcript
    # systemd 257, below a host with cgroups of both kinds, sometimes misses that the last process of a service is gone,
    # and waits for as long as it would for one that does not die: 50 s by our unit.
    machine.write(SHORTER, "[Service]\nTimeoutStopSec=15\n")
    machine.do("systemctl", "daemon-reload")
    return transcript


@pytest.fixture
def service(machine: Machine, first_ten_minutes: str) -> Iterator[Service]:
    """The service, active, with the configuration that is shipped; what a test changed is put back."""
    service = Service(machine)
    kept = {file: machine.read(file) for file in (CONFIG, CONF)}
    machine.start("rabbitmq-server", "workqueued")
    yield service
    machine.run("systemctl", "stop", "workqueued")
    machine.run("rm", "-rf", "/etc/systemd/system/workqueued.service.d")
    for file, text in kept.items():
        machine.write(file, text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", "workqueued")
