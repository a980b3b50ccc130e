"""The master: forks, reaps, signals, keeps deadlines. Nothing else.

Runs in: master, on one thread.

It never opens a socket to the broker, never runs user code and never starts a thread, so a fork is always safe and
nothing that a message does can hurt it. Signals are blocked and taken one at a time; the loop is

    for action in pool.plan(now): do it;  then wait until the next deadline or signal.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workqueued import doubts, groups, signals
from workqueued.bulletin import Bulletin
from workqueued.child import Death, Lifeline, die_with_parent, reap, spawn
from workqueued.config import Config
from workqueued.deaths import Coroner, LastDeaths
from workqueued.errors import ConfigError, TemporaryError
from workqueued.evidence import Evidence
from workqueued.herald import Herald
from workqueued.keeper import ORPHAN_GRACE
from workqueued.logs import Reminder, configure, identify, log
from workqueued.plain import as_plain
from workqueued.pool import MONITOR, NO_QUEUE, Pool
from workqueued.rundir import claim, end_command, end_commands_left_behind, find_former
from workqueued.scoreboard import Cell, Kind, QueueCell, Row, Scoreboard, ScoreboardError, State
from workqueued.slots import Action, Child, Drain, Ending, HandBack, Kill, Release, Spawn

#: Waking up so much after a deadline means that we were stopped, seconds.
_OVERSLEPT = 10.0


@dataclass(frozen=True, slots=True)
class Berth:
    """Everything a child is given at the fork."""

    config: Config
    generation: int
    slot: str
    queue: str
    row: Row
    lifeline: int
    hold: bool
    board: Scoreboard
    queue_rows: Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Entries:
    """What the master needs done and must not know how: the composition root passes these in.

    Attributes:
        worker, monitor: the children's lives; each returns an exit code.
        read_config: reads the configuration again; raises ConfigError.
        version: ours.
    """

    worker: Callable[[Berth], int]
    monitor: Callable[[Berth], int]
    read_config: Callable[[Path], Config]
    version: str


class Master:
    """See the module's text."""

    def __init__(self, config: Config, entries: Entries) -> None:
        self._config = config
        self._entries = entries
        self._pool = Pool(config)
        self._rows: dict[int, Row] = {}
        self._exit_code = os.EX_OK
        self._directory_trouble = Reminder()
        #: The pid of supervisord when it started us.
        self._supervisor: int | None = None

    def run(self) -> int:
        """Run until told to stop; returns the exit code.

        Raises:
            TemporaryError: another master has this run directory.
            ConfigError: the run directory cannot be made.
        """
        signals.block()
        if "SUPERVISOR_ENABLED" in os.environ:
            # A supervisord that is killed leaves us behind, and its successor starts a second master.
            self._supervisor = os.getppid()
            die_with_parent(self._supervisor)
        identify("master")
        with claim(self._config.run_directory) as self._claim:
            former = find_former(self._config.run_directory)
            self._board = Scoreboard.create(self._config.run_directory)
            evidence = Evidence(self._board)
            if former is not None:
                end_commands_left_behind(former)
                evidence.inherit(former)
            self._coroner = Coroner(evidence, LastDeaths(self._board, former))
            self._lifeline = Lifeline.create()
            self._herald = Herald(self._board, self._rows.__contains__)
            self._bulletin = Bulletin(self._board, self._entries.version)
            self._bulletin.lay_out(self._config)
            self._bulletin.announce(self._config, self._pool)
            log.info("master.started", config=str(self._config.file), queues=len(self._config.queues))
            doubts.tell(self._config)
            try:
                self._loop()
            except BaseException:
                self._exit_code = os.EX_SOFTWARE
                raise
            finally:
                if self._exit_code == os.EX_OK:
                    self._herald.rest()
                log.info("master.stopped", exit_code=self._exit_code)
        return self._exit_code

    def _loop(self) -> None:
        while True:
            self._hold()
            now = time.monotonic()
            self._look(now)
            self._bulletin.turn(self._pool)
            for action in self._pool.plan(now):
                self._do(action)
            if self._pool.finished:
                return
            self._herald.turn(self._pool, time.monotonic())
            # As of the plan: what has become due since then was not in it.
            deadline = self._herald.next_deadline(self._pool.next_deadline(now))
            number = signals.wait(None if deadline is None else deadline - time.monotonic())
            if deadline is not None and time.monotonic() > deadline + _OVERSLEPT:
                self._pool.forgive(time.monotonic())
            if number is not None:
                self._hear(number)

    def _hold(self) -> None:
        """Whoever has the lock is the master: when that is somebody else, as our directory was deleted, we stop."""
        where = self._config.run_directory
        try:
            if self._claim.renew():
                log.error("run_directory.lost", error=f"{where} was deleted or replaced under us; made again")
        except TemporaryError as error:
            if self._pool.stopping_since is None:
                log.error("run_directory.lost", error=f"{where} was deleted under us, and now {error}")
                self._exit_code = error.exit_code
                self._pool.stop(time.monotonic())
        except (ConfigError, ScoreboardError) as error:
            if self._directory_trouble.due(str(error)):
                log.error("run_directory.lost", error=str(error))

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _hear(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._bury(reap())
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number, self._config.drain_timeout)
        elif number == signal.SIGQUIT:
            self._stop(number, 0.0)
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            self._report()
        # SIGUSR2: a child has news, which `_look` reads.

    def _look(self, now: float) -> None:
        """Read the rows of those children whose state counts now, and hear who cannot run its command."""
        for child in self._pool.observable(now):
            words = self._rows[child.pid].words
            self._pool.observed(
                child.pid,
                ready=bool(words[Cell.PROVEN]),
                tick=words[Cell.TICK] / 1e9,
                busy=words[Cell.STATE] == State.BUSY,
                deadline=words[Cell.DEADLINE] / 1e9,
            )
        for pid, row in self._rows.items():
            unusable = self._pool.find(pid) if row.words[Cell.UNUSABLE] else None
            if unusable is not None and self._pool.pause(unusable.queue, unusable.generation):
                self._tell_paused(unusable.queue, row.note)

    def _tell_paused(self, queue: str, why: str | None) -> None:
        log.error(
            "queue.paused",
            queue=queue,
            error=why,
            hint="the message was handed back, and all wait in the queue; mend the command, then reload (HUP)",
        )

    def _bury(self, deaths: Iterable[Death]) -> None:
        for death in deaths:
            row = self._rows.pop(death.pid, None)
            if row is None:
                continue  # not one of ours: a grandchild that was handed to us
            self._bury_one(death, row)

    def _bury_one(self, death: Death, row: Row) -> None:
        now = time.monotonic()
        child = self._pool.find(death.pid)
        words = row.words
        groups.end(words[Cell.COMMAND])  # its number cannot be anybody else's yet
        end_command(row)
        # What was learned in the last moments counts: a canary may be ready and die before we looked.
        self._pool.observed(death.pid, ready=bool(words[Cell.PROVEN]), tick=words[Cell.TICK] / 1e9, busy=False)
        settled = words[Cell.DONE] + words[Cell.RETRIED] + words[Cell.DEAD]
        code = None if words[Cell.TASK_STARTED] else death.code
        message = (row.message_id or None) if words[Cell.TASK_STARTED] else None
        ending = self._pool.exited(
            death.pid, code, settled, now, recycled=bool(words[Cell.RECYCLED]), message=message
        )
        if child is not None:
            self._tell_ending(ending, death, row, child)
        self._bulletin.retire(child.queue if child is not None else NO_QUEUE, row)
        if self._pool.verdict is not None and self._pool.stopping_since is None:
            self._exit_code = self._pool.verdict
            log.error("master.giving_up", exit_code=self._exit_code, reason="no queue can be served, see above")
            self._pool.stop(now)

    def _tell_ending(self, ending: Ending, death: Death, row: Row, child: Child) -> None:
        lived = round(time.monotonic() - child.spawned_at, 1)
        if ending in (Ending.STOPPED, Ending.RECYCLED):
            log.debug("child.reaped", slot=child.slot, pid_died=death.pid, lived_s=lived)
        elif ending is Ending.DIED:
            cause = self._coroner.examine(death, row, child, self._config.queues.get(child.queue))
            self._bulletin.count_death(child.queue, cause)
            self._coroner.warn(child.queue, self._pool.fates[child.queue].crash_loop(time.monotonic()))
        elif ending is Ending.MISCONFIGURED and child.queue in self._pool.paused():
            self._tell_paused(child.queue, row.note)
        elif ending is Ending.MISCONFIGURED and child.generation > 1:
            log.error(
                "reload.failed",
                queue=child.queue,
                generation=child.generation,
                hint="the old workers go on; one that crashes will load the new code",
            )

    def _stop(self, number: signal.Signals, patience: float) -> None:
        if self._is_orphan():
            # The successor's master is held off by our lock until we are gone.
            patience = min(patience, ORPHAN_GRACE)
        if self._pool.stopping_since is None:
            log.info("master.draining", signal=number.name, timeout_s=patience)
        self._pool.stop(time.monotonic(), patience)

    def _is_orphan(self) -> bool:
        return self._supervisor is not None and os.getppid() != self._supervisor

    def _reload(self) -> None:
        if self._pool.stopping_since is not None:
            log.warning("reload.ignored", reason="the master is draining")
            return
        try:
            config = self._entries.read_config(self._config.file)
            check_unchangeable(self._config, config)
            self._bulletin.lay_out(config)
            configure(config.log.level, config.log.format, target=config.log.target)
        except (ConfigError, ScoreboardError) as error:
            self._bulletin.count_rejected_reload()
            log.error("reload.rejected", error=str(error), hint="the old configuration goes on")
            return
        old, self._config = self._config, config
        doubts.tell(config)
        self._warn_of_removed(old, config)
        self._pool.reload(config)
        self._bulletin.announce(config, self._pool)
        self._herald.changes()
        log.info("reload.started", generation=self._pool.generation, changed=differences(old, config))

    def _warn_of_removed(self, old: Config, new: Config) -> None:
        for queue in sorted(set(old.queues) - set(new.queues)):
            words = self._bulletin.rows[queue].words
            sampled = words[QueueCell.SAMPLED]
            log.warning(
                "queue.removed",
                queue=queue,
                ready=words[QueueCell.READY] - 1 if words[QueueCell.READY] else None,
                age_s=round((time.monotonic_ns() - sampled) / 1e9, 1) if sampled else None,
                hint="its workers drain; what is left stays in the queue on the broker",
            )

    def _report(self) -> None:
        """SIGUSR1: the state of everything, a line per child."""
        now = time.monotonic()
        log.info(
            "master.reported",
            generation=self._pool.generation,
            children=sum(1 for _ in self._pool.children()),
            refused=self._pool.refused(now),
            paused=self._pool.paused(),
            draining=self._pool.stopping_since is not None,
        )
        for child in self._pool.children():
            row = self._rows[child.pid]
            words = row.words
            facts: dict[str, object] = {"child": child.slot, "child_pid": child.pid, "state": row.state.word}
            if words[Cell.TASK_STARTED]:
                facts["message_id"] = row.message_id
                facts["busy_s"] = round(now - words[Cell.TASK_STARTED] / 1e9, 1)
            facts |= {"done": words[Cell.DONE], "retried": words[Cell.RETRIED], "dead": words[Cell.DEAD]}
            facts |= {"uptime_s": round(now - child.spawned_at, 1)}
            log.info("child.reported", child_generation=child.generation, **facts)

    # --- doing ------------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        match action:
            case Spawn():
                self._spawn(action)
            case Drain(pid):
                signals.send(pid, signal.SIGTERM)
            case HandBack(pid):
                log.warning("child.hurried", pid_hurried=pid, reason="the drain timeout is over, or SIGQUIT")
                signals.send(pid, signal.SIGQUIT)
            case Kill(pid, reason):
                log.error("child.killed", pid_killed=pid, reason=reason)
                signals.send(pid, signal.SIGKILL)
            case Release(pid):
                signals.send(pid, signal.SIGUSR1)

    def _spawn(self, action: Spawn) -> None:
        is_monitor = action.slot == MONITOR
        try:
            row = self._board.claim(Kind.MONITOR if is_monitor else Kind.WORKER, action.slot)
        except ScoreboardError as error:
            self._give_up_spawn(action.slot, str(error))
            return
        generation = self._pool.generation
        row.words[Cell.GENERATION] = generation
        row.words[Cell.STARTED] = row.words[Cell.TICK] = time.monotonic_ns()
        queue = self._pool.slots[action.slot].queue
        berth = Berth(
            self._config, generation, action.slot, queue, row, self._lifeline.reader, action.hold, self._board,
            dict(self._bulletin.rows),
        )
        live = self._entries.monitor if is_monitor else self._entries.worker
        title = f"workqueued: {'monitor' if is_monitor else 'worker ' + action.slot}"
        try:
            pid = spawn(lambda: live(berth), self._lifeline, title)
        except OSError as error:
            row.clear()
            self._give_up_spawn(action.slot, str(error))
            return
        row.words[Cell.PID] = pid
        self._rows[pid] = row
        self._pool.spawned(action.slot, pid, time.monotonic(), hold=action.hold)
        log.debug("child.spawned", child=action.slot, child_pid=pid, child_generation=generation)

    def _give_up_spawn(self, slot: str, error: str) -> None:
        self._pool.spawn_failed(slot, time.monotonic())
        log.error("child.unborn", child=slot, error=error)


def differences(old: Config, new: Config) -> list[str]:
    """The keys that a reload changed, as paths; for the log."""

    def flatten(value: object, path: str) -> dict[str, object]:
        if isinstance(value, dict):
            return {k: v for name, item in value.items() for k, v in flatten(item, f"{path}.{name}").items()}
        return {path.removeprefix("."): value}

    before, after = flatten(as_plain(old), ""), flatten(as_plain(new), "")
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def check_unchangeable(old: Config, new: Config) -> None:
    """What a reload cannot change.

    Raises:
        ConfigError: the run directory moved; lock and scoreboard lie in the old one.
    """
    if old.run_directory != new.run_directory:
        raise ConfigError(
            f"{new.file}: run_directory: found {new.run_directory}, and the running master has {old.run_directory}; "
            "a reload cannot move it, restart instead"
        )
