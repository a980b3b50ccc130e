"""A RabbitMQ of another Debian beside this one's: unpacked aside, and run in a chroot."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from workqueued.node import PACKAGED, BrokerError

#: Which Debian has which RabbitMQ.
_SUITES = {"3.10": "bookworm", "4.0": "trixie"}
#: What stands for a program of that RabbitMQ: its own mounts, and the same path for the folder that it works in.
_WRAPPER = """#!/bin/sh
exec unshare --mount --propagation private -- /bin/sh -c '
    root={root}; mkdir -p "$root$HOME"
    mount --bind "$HOME" "$root$HOME" && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 69
    exec chroot "$root" {program} "$@"' {name} "$@"
"""


def use_broker(version: str, cache: Path) -> None:
    """Make `Node` use a version of RabbitMQ, from now on; an empty one: what there is.

    Raises:
        BrokerError: it cannot be had.
    """
    if not version or version == installed():
        return
    if version not in _SUITES:
        raise BrokerError(f"BROKER={version}: expected one of {', '.join(_SUITES)}")
    root = cache / _SUITES[version]
    if not (root / ".ready").exists():
        unpack(_SUITES[version], root)
    home = cache / f"rabbitmq-{version}"
    (home / "sbin").mkdir(parents=True, exist_ok=True)
    for name in ("rabbitmq-server", "rabbitmqctl"):
        wrapper = home / "sbin" / name
        wrapper.write_text(_WRAPPER.format(root=root, program=PACKAGED / name, name=name))
        wrapper.chmod(0o755)
    os.environ["WQ_RABBITMQ_HOME"] = str(home)


def installed() -> str:
    """The version of this machine's, as 3.10; empty when there is none."""
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", "rabbitmq-server"],
        check=False,
        capture_output=True,
        text=True,
    )
    found = re.match(r"\d+\.\d+", done.stdout)
    return found[0] if found else ""


def unpack(suite: str, root: Path) -> None:
    """debootstrap, from the mirror that this machine's apt uses; a minute, and 700 MB."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise BrokerError(f"RabbitMQ of Debian {suite} beside this one needs root, and: apt-get install debootstrap")
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    print(f"chaos: unpacking RabbitMQ of Debian {suite} into {root} (a minute)", flush=True)
    words = ["debootstrap", "--variant=minbase", "--include=rabbitmq-server", suite, str(root), mirror()]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BrokerError(f"{' '.join(words[:4])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (root / ".ready").touch()


def mirror() -> str:
    """Where this machine gets its Debian from."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split()
    return next((uri for uri in listed if "security" not in uri), "")
