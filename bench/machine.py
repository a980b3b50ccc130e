"""What the kernel tells of processes and of the machine."""

import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        children = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return  # it has just ended
    for child in " ".join(children).split():
        yield from tree(int(child))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes and their threads, from the scheduler's own nanoseconds."""
    spent = 0
    for pid in pids:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            spent += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        except OSError:
            continue
    return spent / 1e9


def busy_seconds() -> float:
    """Processor time of everything on this machine, and what its host gave to other machines."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    """Proportional set size of a process: pages that several share are counted in parts."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


def describe() -> str:
    """Processor, memory and system, in a line."""
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.split(":")[1].strip() for row in rows if row.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, {system}, Linux {platform.release()}"
