"""Fair dispatch: heavy (50 ms) and light (1 ms) messages in turn, two workers; how long until all are done?

Ideal is that both workers are busy all the time. Given out blindly, one would get all the heavy ones.
"""

import time

from bench.rig import Rig
from bench.systems import CELERY, DRAMATIQ, INFO

_PAIRS = 100
IDEAL = _PAIRS * (0.050 + 0.001) / 2


def measure(rig: Rig, rounds: int) -> dict[str, list[float]]:
    """Makespans in seconds, by system."""
    named = [INFO, DRAMATIQ, CELERY]
    found: dict[str, list[float]] = {f"makespan {system.name}": [] for system in named}
    for number in range(rounds):
        for system in named[:: -1 if number % 2 else 1]:
            queue = rig.declare(system, "classic", "fairness")
            with rig.run(system, queue, "classic", 2, "toil") as running:
                rig.await_workers(running, system, queue, 2)
                time.sleep(0.5)  # Celery's pool
                began = time.monotonic()
                rig.fill(system, queue, 2 * _PAIRS, [b"H" + b"x" * 99, b"L" + b"x" * 99])
                rig.wait(lambda: running.done >= 2 * _PAIRS, f"the last task of {system.name}", pause=0.001)
                found[f"makespan {system.name}"].append(time.monotonic() - began)
    return found
