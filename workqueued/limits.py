"""Limits: what a worker, or the command that it runs, may use.

Runs in: worker, at its start.

`nofile` and `nice` are set on the worker, and its command inherits them; `memory` is set on a worker with a handler.
`memory` and `cpu` of a command are its own, so they are set between fork and exec. Python cannot run code there, in a
process with threads, without risking a deadlock; the program prlimit of util-linux can.
"""

import math
import os
import resource
import shutil

from workqueued.errors import ConfigError
from workqueued.queue_settings import Limits

#: After SIGXCPU a program has so much more processor time to end by itself before the kernel kills it, seconds.
_CPU_GRACE = 5
#: What a worker takes beyond what it has at its start, for connections and messages, bytes.
_ROOM = 32 * 1024 * 1024


def apply(limits: Limits, *, for_command: bool) -> list[str]:
    """Set the limits of this process.

    Args:
        limits: what is configured.
        for_command: the worker runs a command, which gets `memory` and `cpu` itself.

    Returns:
        What could not be done, and why, one text each.
    """
    complaints = []
    if limits.nofile is not None:
        complaints += _lower(resource.RLIMIT_NOFILE, limits.nofile, "nofile")
    if limits.nice is not None:
        complaints += _be_nice(limits.nice)
    if limits.memory is not None and not for_command:
        taken = _address_space()
        if limits.memory < taken + _ROOM:
            complaints.append(
                f"memory: {limits.memory} bytes is too little for a worker, which begins with {taken} bytes of address "
                "space; it has no limit now"
            )
        else:
            complaints += _lower(resource.RLIMIT_AS, limits.memory, "memory")
    return complaints


def prefix(limits: Limits, queue_name: str) -> tuple[str, ...]:
    """The words before a command that give it its own limits; none when it has none.

    Raises:
        ConfigError: prlimit is not there.
    """
    options = []
    if limits.cpu is not None:
        seconds = math.ceil(limits.cpu)
        # At the soft limit SIGXCPU, at the hard one SIGKILL: one value for both would never send the former.
        options.append(_option("cpu", resource.RLIMIT_CPU, seconds, seconds + _CPU_GRACE))
    if limits.memory is not None:
        options.append(_option("as", resource.RLIMIT_AS, limits.memory, limits.memory))
    if not options:
        return ()
    program = shutil.which("prlimit")
    if program is None:
        raise ConfigError(
            f"queues.{queue_name}.limits: memory and cpu of a command need the program prlimit, and it is not in the "
            "PATH; install util-linux, or remove these two keys"
        )
    return (program, *options, "--")


def _option(name: str, number: int, soft: int, hard: int) -> str:
    """An option of prlimit, within the hard limit that we have ourselves: only root could go beyond it."""
    _, most = resource.getrlimit(number)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    return f"--{name}={soft}:{hard}"


def _lower(number: int, wanted: int, name: str) -> list[str]:
    """Set a soft limit, never above the hard one."""
    _, hard = resource.getrlimit(number)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(number, (value, hard))
    except (OSError, ValueError) as error:
        return [f"{name}: cannot be set to {value}: {error}"]
    if value < wanted:
        return [f"{name}: {wanted} is above the hard limit that the service was started with; it is {value} now"]
    return []


def _be_nice(wanted: int) -> list[str]:
    """Set the niceness, as an absolute value; the threads that are started later inherit it."""
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) != wanted:
            os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except OSError as error:
        why = "a sandbox forbids it (SystemCallFilter=~@resources), or the service is nicer already"
        return [f"nice: cannot be set to {wanted}: {error.strerror}; {why}"]
    return []


def _address_space() -> int:
    """Bytes of address space that this process has now."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - four lines at a worker's start
        return int(file.read().split()[0]) * resource.getpagesize()
