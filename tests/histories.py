"""Histories of a pool: what happened, and what it plans then."""

from typing import Any

from workqueued.broker_settings import Broker
from workqueued.config import Config
from workqueued.pool import Pool
from workqueued.queue_settings import Queue
from workqueued.slots import Action, Ending, Spawn


def config(**queues: int | dict[str, Any]) -> Config:
    """A configuration: queue name = workers, or settings."""
    settings = {n: {"workers": q} if isinstance(q, int) else q for n, q in queues.items()}
    return Config(queues={n: Queue(**{"handler": "m:f", **q}) for n, q in settings.items()}, broker=Broker())


class History:
    """A pool and a clock; carries out what the pool plans, with pids from 100."""

    def __init__(self, configuration: Config) -> None:
        self.pool = Pool(configuration, chance=lambda: 1.0)
        self.now = 1000.0
        self.next_pid = 100
        self.pids: dict[str, int] = {}

    def step(self, seconds: float = 0.0) -> list[Action]:
        """Let time pass, plan once, carry out the spawns."""
        self.now += seconds
        actions = self.pool.plan(self.now)
        for action in actions:
            if isinstance(action, Spawn):
                self.pool.spawned(action.slot, self.next_pid, self.now, hold=action.hold)
                self.pids[action.slot] = self.next_pid
                self.next_pid += 1
        return actions

    def ready(self, *slots: str) -> None:
        """The newest children of these slots report ready."""
        for slot in slots:
            self.pool.observed(self.pids[slot], ready=True, tick=self.now, busy=False)

    def dies(self, slot: str, code: int | None = None, settled: int = 0, pid: int | None = None) -> Ending:
        """The newest child of a slot (or a certain one) ends."""
        return self.pool.exited(pid or self.pids[slot], code, settled, self.now)

    def settle_in(self) -> None:
        """Start everything and let it become ready."""
        for _ in range(3):
            self.step()
            self.ready(*self.pids)

    def deadline(self) -> float | None:
        """Seconds until the pool wants to be asked again."""
        deadline = self.pool.next_deadline(self.now)
        return None if deadline is None else deadline - self.now
