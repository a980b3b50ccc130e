"""The pool: the master's table of slots, and its plan.

Runs in: master. Pure: children, configuration and clock go in, actions come out; nobody is forked or killed here.

A slot (`task_queue/0`, `monitor`) is a numbered place. It holds at most two children: the one that serves, and during a
reload its successor, which imports its handler and connects, then waits until the old one has drained. The first child
of a queue in each generation is its canary: until it has reported ready, no other is started, so that a broken handler
or a refused queue is met once and told once.
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from workqueued import overdue
from workqueued.backoff import Backoff
from workqueued.config import Config
from workqueued.overdue import drain
from workqueued.slots import (
    MANY_DEATHS,
    REMEMBERED,
    Action,
    Child,
    Ending,
    HandBack,
    QueueFate,
    Release,
    Slot,
    Spawn,
)

#: The monitor's slot, and where a queue's name would stand: a queue cannot have the empty name.
MONITOR = "monitor"
NO_QUEUE = ""
#: A child that lived this long, or settled a delivery, was healthy: its death is replaced at once.
_HEALTHY_AFTER = 5.0
#: Ceilings of the delays before an unhealthy slot is filled again, seconds. The first death is replaced at once.
_CRASH_FIRST, _CRASH_MOST = 0.5, 60.0
#: The same for a slot whose workers settle something and die often all the same.
_PROGRESS_MOST = 1.0
#: How long a queue that the broker refused is left alone, seconds.
REFUSED_FOR = 60.0
#: How often the rows of children that are ready are read, seconds.
_LOOK_EVERY = 30.0


@dataclass(slots=True)
class Pool:
    """The table. `generation` counts configurations from 1."""

    config: Config
    chance: Callable[[], float] = random.random
    generation: int = 1
    slots: dict[str, Slot] = field(default_factory=dict)
    fates: dict[str, QueueFate] = field(default_factory=dict)
    stopping_since: float | None = None
    #: When messages in work are handed back in a stop.
    patient_until: float = math.inf
    #: Set when the daemon must end because of its configuration: the exit code.
    verdict: int | None = None
    #: The queue of each slot that there is to be.
    wanted: Mapping[str, str] = field(default_factory=dict, init=False)
    #: How long a child that is ready may show no sign of life outside of a task, seconds.
    patience: float = field(init=False)
    #: The living by pid. With hundreds of them nothing may look through all for each, and there is a turn of the master
    #: for each that comes or goes: what a turn does for all of them must be next to nothing.
    _living: dict[int, Child] = field(default_factory=dict, init=False)
    #: When all of them are to be looked at, as one may be stale then or over its limit.
    _look_at: float = field(default=0.0, init=False)
    #: Queues that have a child which is not ready, or a Spawn in the plan being made.
    _warming: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._lay_out()

    # --- what happens -----------------------------------------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """A new configuration: everything is replaced in a rolling way."""
        self.config = config
        self.generation += 1
        self._lay_out()
        for fate in self.fates.values():
            fate.refused_until = 0.0
            fate.paused = False
        for slot in self.slots.values():
            slot.retry_at = 0.0

    def stop(self, now: float, patience: float | None = None) -> None:
        """Drain everything, and hand back what is in work after so many seconds; None: after `drain_timeout`."""
        if self.stopping_since is None:
            self.stopping_since = now
        patience = self.config.drain_timeout if patience is None else patience
        self.patient_until = min(self.patient_until, now + patience)

    def spawned(self, slot_name: str, pid: int, now: float, *, hold: bool) -> None:
        """A Spawn was carried out."""
        slot = self.slots[slot_name]
        child = Child(pid, slot_name, slot.queue, self.generation, now, hold, tick=now)
        if slot.queue != NO_QUEUE:
            child.hard_limit = self.config.queues[slot.queue].hard_limit
        self._living[pid] = child
        self._look_at = min(self._look_at, now + (child.hard_limit or _LOOK_EVERY))  # no task began before
        if slot.current is None:
            slot.current = child
        else:
            slot.successor = child

    def spawn_failed(self, slot_name: str, now: float) -> None:
        """The kernel has no process for us: try again later."""
        slot = self.slots[slot_name]
        slot.retry_at = now + max(1.0, slot.backoff.next_delay())

    def pause(self, queue: str, generation: int) -> bool:
        """A worker's command cannot be run: nobody serves its queue until a reload; returns whether that is news.

        From a worker of an older generation it is none: the reload was for that, and it has not been reaped yet.
        """
        if generation != self.generation:
            return False
        fate = self.fates[queue]
        news, fate.paused = not fate.paused, True
        return news

    def observable(self, now: float) -> list[Child]:
        """Those whose rows are to be read before the plan for now: all, every so often, else those not ready."""
        everybody = now >= self._look_at or self.stopping_since is not None
        return [child for child in self._living.values() if everybody or not child.ready]

    def observed(self, pid: int, *, ready: bool, tick: float, busy: bool, deadline: float = 0.0) -> bool:
        """What a child's scoreboard row says; returns whether it has just become ready.

        Args:
            pid: whose.
            ready: it can serve, or does.
            tick: its last sign of life, monotonic seconds.
            busy: a handler runs.
            deadline: when that has run for too long, monotonic seconds; 0: never.
        """
        child = self.find(pid)
        if child is None:
            return False
        child.tick = max(child.tick, tick)
        child.busy = busy
        child.deadline = deadline if busy else 0.0
        if child.deadline:
            self._look_at = min(self._look_at, child.deadline)
        if not ready or child.ready:
            return False
        child.ready = True
        fate = self.fates[child.queue]
        fate.proven = max(fate.proven, child.generation)
        return True

    def forgive(self, now: float) -> None:
        """We slept through our own deadline (suspended, SIGSTOP): the children may have, too."""
        for child in self._living.values():
            child.tick = now

    def exited(
        self,
        pid: int,
        code: int | None,
        settled: int,
        now: float,
        *,
        recycled: bool = False,
        message: str | None = None,
    ) -> Ending:
        """A child was reaped.

        Args:
            pid: whose.
            code: the exit code as far as it is a word to us; None when a signal ended it, or when it ended in a task,
                since what a handler passes to os._exit means nothing here.
            settled: how many deliveries it settled.
            now: monotonic seconds.
            recycled: it said that it leaves to be replaced.
            message: what it had in hand, if anything.
        """
        child = self._living.pop(pid)
        slot = self.slots[child.slot]
        if slot.current is child:
            slot.current, slot.successor = slot.successor, None
        else:
            slot.successor = None
        ending = Ending.RECYCLED if recycled and code == 0 else self._judge(child, code)
        fate = self.fates[child.queue]
        if ending is Ending.REFUSED:
            fate.imported = True  # it came as far as the broker
            if child.generation == self.generation:  # else the reload was for that, and we are late
                fate.refused_until = now + REFUSED_FOR
            if not any(f.proven for q, f in self.fates.items() if q != NO_QUEUE) and self._all_refused(now):
                self.verdict = os.EX_CONFIG
        elif ending is Ending.MISCONFIGURED:
            if not fate.proven and not fate.imported and self.generation == 1:
                self.verdict = os.EX_CONFIG
            elif fate.proven < child.generation:
                fate.failed = child.generation
            elif self._runs_command(child.queue):  # it was there when its queue was first served
                self.pause(child.queue, child.generation)
        if ending is Ending.DIED:
            fate.deaths.append((now, message))
        if ending in (Ending.DIED, Ending.MISCONFIGURED):
            self._back_off(slot, child, settled, now)
        elif ending in (Ending.STOPPED, Ending.RECYCLED):
            slot.backoff.reset()
            slot.unhealthy = 0
        self._forget_empty()
        return ending

    def _judge(self, child: Child, code: int | None) -> Ending:
        if code == os.EX_NOPERM:
            return Ending.REFUSED
        if code == os.EX_CONFIG:
            return Ending.MISCONFIGURED
        if child.drain_at is not None and (code == 0 or child.killed) and not child.over_limit:
            return Ending.STOPPED
        return Ending.DIED

    def _runs_command(self, queue: str) -> bool:
        known = self.config.queues.get(queue)
        return known is not None and known.command is not None

    def _back_off(self, slot: Slot, child: Child, settled: int, now: float) -> None:
        short = now - child.spawned_at < _HEALTHY_AFTER
        if short:
            slot.deaths.append(now)
        if settled or not short:
            slot.backoff.reset()
            slot.unhealthy = 0
            # Settling one message and dying of the next, again and again, is progress, but must be no busy loop.
            often = short and len(slot.deaths) == MANY_DEATHS and now - slot.deaths[0] < REMEMBERED
            slot.retry_at = now + (_PROGRESS_MOST * self.chance() if often else 0.0)
            return
        slot.unhealthy += 1
        slot.retry_at = now if slot.unhealthy == 1 else now + slot.backoff.next_delay()

    # --- what to do -------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> list[Action]:
        """What is to be done now. Signals are planned once; a Spawn until `spawned` tells that it was done."""
        if self.stopping_since is not None:
            return [action for child in self._living.values() for action in self._plan_stop(child, now)]
        actions: list[Action] = []
        self._warming = {child.queue for child in self._living.values() if not child.ready}
        for slot in self.slots.values():
            actions += self._plan_slot(slot, now)
        everybody = now >= self._look_at
        for child in self._living.values():
            if everybody or child.drain_at is not None:
                actions += self._overdue(child, now)
        if everybody:
            # A task that begins after this look cannot be over its limit before the next one.
            limited = [child for child in self._living.values() if child.hard_limit and not child.killed]
            self._look_at = min([now + _LOOK_EVERY] + [c.deadline or now + (c.hard_limit or 0) for c in limited])
        return actions

    def _plan_slot(self, slot: Slot, now: float) -> list[Action]:
        if slot.name not in self.wanted or self.fates[slot.queue].paused:
            return [drain(child, now) for child in slot.children() if child.drain_at is None]
        current, successor = slot.current, slot.successor
        if current is None:
            return [Spawn(slot.name, hold=False)] if self._may_spawn(slot, now) else []
        if current.held and current.ready and current.drain_at is None:
            current.held = False  # its predecessor is gone
            return [Release(current.pid)]
        if current.generation == self.generation:
            return []
        if successor is None:
            # The monitor needs no successor, and a child that never got ready has nothing to hand over.
            if slot.queue == NO_QUEUE or not current.ready:
                return [drain(current, now)] if current.drain_at is None else []
            return [Spawn(slot.name, hold=True)] if self._may_spawn(slot, now) else []
        if successor.generation != self.generation:
            return [drain(successor, now)] if successor.drain_at is None else []
        if successor.ready and current.drain_at is None:
            return [drain(current, now)]
        return []

    def _may_spawn(self, slot: Slot, now: float) -> bool:
        fate = self.fates[slot.queue]
        if fate.paused or now < max(slot.retry_at, fate.refused_until):
            return False
        warming = slot.queue in self._warming
        if slot.current is not None:  # a successor: one at a time, and none after the canary failed
            may = not warming and fate.failed != self.generation
        else:  # an empty slot loads whatever code is there; the first child of a generation goes alone
            may = fate.proven == self.generation or not warming
        if may:
            self._warming.add(slot.queue)
        return may

    def _plan_stop(self, child: Child, now: float) -> list[Action]:
        actions: list[Action] = []
        if child.drain_at is None:
            actions.append(drain(child, now))
        if now >= self.patient_until and child.hand_back_at is None:
            child.hand_back_at = now
            actions.append(HandBack(child.pid))
        return actions + self._overdue(child, now)

    def _overdue(self, child: Child, now: float) -> list[Action]:
        action = overdue.judge(child, now, self.patience, self.config.drain_margin)
        return [] if action is None else [action]

    def next_deadline(self, now: float) -> float | None:
        """When `plan` may have something new to say without anything happening; None: never.

        `now` is that of the last plan, or what became due since then would be forgotten. A child's staleness is looked
        at every so often rather than exactly: its tick moves all the time.
        """
        deadlines: list[float] = [self._look_at]
        if self.stopping_since is not None:
            deadlines = [self.patient_until, now + _LOOK_EVERY] if self._living else []
            for child in self._living.values():
                if child.hand_back_at is not None:
                    deadlines.append(child.hand_back_at + self.config.drain_margin)
                if child.deadline and not child.killed:
                    deadlines.append(child.deadline)
        else:
            for slot in self.slots.values():
                if slot.current is None and slot.name in self.wanted and not self.fates[slot.queue].paused:
                    deadlines.append(max(slot.retry_at, self.fates[slot.queue].refused_until))
        return min((deadline for deadline in deadlines if deadline > now), default=None)

    # --- the table --------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Stopping, and nobody is left."""
        return self.stopping_since is not None and not self._living

    def children(self) -> Iterator[Child]:
        """All the living."""
        for slot in self.slots.values():
            yield from slot.children()

    def find(self, pid: int) -> Child | None:
        """The child with this pid."""
        return self._living.get(pid)

    def paused(self) -> list[str]:
        """The queues whose command cannot be run."""
        return [queue for queue, fate in self.fates.items() if fate.paused]

    def refused(self, now: float) -> list[str]:
        """The queues that the broker refuses at present."""
        return [queue for queue, fate in self.fates.items() if now < fate.refused_until]

    def _all_refused(self, now: float) -> bool:
        active = [name for name, queue in self.config.queues.items() if queue.active_workers]
        return all(now < self.fates[name].refused_until for name in active)

    def _lay_out(self) -> None:
        """Make the slots that the configuration asks for; others stay until their children are gone."""
        self.patience = overdue.patience(self.config.broker)
        self.wanted = dict(_wanted_slots(self.config))
        for name, queue in self.wanted.items():
            if name not in self.slots:
                self.slots[name] = Slot(name, queue, Backoff(_CRASH_FIRST, _CRASH_MOST, self.chance))
            self.fates.setdefault(queue, QueueFate())
        self._forget_empty()

    def _forget_empty(self) -> None:
        for slot in list(self.slots.values()):
            if slot.name not in self.wanted and slot.current is None:
                del self.slots[slot.name]


def _wanted_slots(config: Config) -> Iterator[tuple[str, str]]:
    """(slot, queue) of every child that there is to be."""
    yield MONITOR, NO_QUEUE
    for name, queue in config.queues.items():
        for number in range(queue.active_workers):
            yield f"{name}/{number}", name
