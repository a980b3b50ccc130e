"""Debian trees and a wheelhouse, made once and kept under .run/system: what a machine of the tests is booted from."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".run/system"
#: The Python of each Debian.
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
#: What an operator has on a host, and a private broker.
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "make", "rabbitmq-server"),
    *("curl", "jq", "man-db"),
)


def tree(suite: str) -> Path:
    """A Debian that nobody has used, two minutes the first time.

    Raises:
        RuntimeError: debootstrap failed; its last words are in the error.
    """
    directory, packages = KEPT / suite, ",".join(_PACKAGES)
    made_with = KEPT / f"{suite}.packages"  # written last: an interrupted build is done again
    if not made_with.exists() or made_with.read_text() != packages:
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        _run("debootstrap", "--variant=minbase", f"--include={packages}", suite, str(directory))
        made_with.write_text(packages)
    return directory


def fill_wheelhouse(suite: str, directory: Path) -> None:
    """What `pip install` in the machine would fetch from the network, which it has not."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options"]["install_requires"].split()
    version = ("--python-version", PYTHONS[suite], "--only-binary=:all:")
    _run(sys.executable, "-m", "pip", "download", "-q", *version, "-d", str(directory), "setuptools>=65", *needed)


def copy_sources(directory: Path) -> None:
    """The repository as git would hand it to somebody, uncommitted changes included."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, _run(*listed).split("\0")):
        source, target = ROOT / name, directory / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def main() -> int:
    """Make both trees, one after the other."""
    for suite in PYTHONS:
        print(f"debian: {suite}", flush=True)
        tree(suite)
    return 0


def _run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "LANG": "C.UTF-8"}
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
