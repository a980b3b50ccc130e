"""Recycling: when a worker has served long enough."""

import pytest

from workqueued.proc import resident_memory
from workqueued.queue_settings import Recycling
from workqueued.recycle import Recycler


def test_without_limits_nobody_leaves() -> None:
    """And nothing is looked at."""
    recycler = Recycler(Recycling(), resident=lambda: 1 // 0)
    assert recycler.due(10**9) is None


@pytest.mark.parametrize(("chance", "tasks"), [(0.0, 100), (0.5, 95), (1.0, 90)])
def test_after_so_many_tasks_or_up_to_a_tenth_fewer(chance: float, tasks: int) -> None:
    """So that a pool that was started at once is not replaced at once."""
    recycler = Recycler(Recycling(tasks=100), chance=lambda: chance)
    assert recycler.due(tasks - 1) is None
    assert recycler.due(tasks) == f"{tasks} tasks"


def test_one_task_is_one_task() -> None:
    """Whatever chance says."""
    assert Recycler(Recycling(tasks=1), chance=lambda: 1.0).due(1) == "1 tasks"


def test_at_its_age() -> None:
    """On the monotonic clock."""
    now = [1000.0]
    recycler = Recycler(Recycling(age=60), chance=lambda: 0.5, clock=lambda: now[0])
    now[0] += 56
    assert recycler.due(1) is None
    now[0] += 1
    assert recycler.due(1) == "its age"


def test_memory_is_looked_at_once_a_second() -> None:
    """A look is a system call or three."""
    now, looks = [0.0], []

    def resident() -> int:
        looks.append(now[0])
        return 300 * 2**20

    recycler = Recycler(Recycling(memory=200 * 2**20), clock=lambda: now[0], resident=resident)
    assert recycler.due(1) is None
    now[0] = 1.0
    assert recycler.due(2) == "300 MiB of memory"
    assert looks == [1.0]


def test_resident_memory_is_that_of_this_process() -> None:
    """Bytes."""
    assert 2**20 < resident_memory() < 2**33
