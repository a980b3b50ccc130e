"""What `wq-status` makes of a scoreboard: values, a judgement, lines, JSON, and a plugin's line."""

import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workqueued.amqp.depth import Depth
from workqueued.bulletin import Bulletin
from workqueued.child import Death
from workqueued.cli import status as command
from workqueued.cli.backlog import Level, Thresholds, check, estimate
from workqueued.cli.dashboard import BLOCKS, PLAIN_BLOCKS, SPARKS, History, Style, lines, span, sparkline
from workqueued.cli.screen import columns
from workqueued.config import Config, read_config
from workqueued.deaths import Coroner, LastDeaths
from workqueued.errors import UsageError
from workqueued.evidence import Evidence
from workqueued.facts import facts
from workqueued.flow import Flow, Meter, Whole, eta
from workqueued.monitor_settings import Alerts
from workqueued.paths import RUN_DIRECTORY, glean_run_directory, short_hash
from workqueued.pool import Pool
from workqueued.proc import lock_holder
from workqueued.scoreboard import (
    LARGEST,
    TIMINGS_AT,
    TIMINGS_WORDS,
    Cell,
    DeathCell,
    Head,
    Kind,
    Pause,
    QueueCell,
    Row,
    Scoreboard,
    State,
)
from workqueued.slots import Child
from workqueued.status import Condition, QueueStatus, Status, down
from workqueued.survey import Kernel, read
from workqueued.teller import Samples, Teller

SECOND = 10**9
#: The moment of every look, monotonic ns; the board was made 1000 s before.
NOW = 50_000 * SECOND
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\nsecond line|x"
#: What a terminal may be told by a stranger's text: nothing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]")


class World:
    """A board as a healthy daemon of two workers leaves it, and a kernel to go with it."""

    def __init__(self, directory: Path) -> None:
        self.board = Scoreboard.create(directory)
        self.board[Head.MASTER_PID] = 1
        self.board[Head.EPOCH] = 1_700_000_000 * SECOND
        self.board[Head.STARTED] = NOW - 1000 * SECOND
        self.board[Head.TICK] = NOW - 5 * SECOND
        self.board[Head.GENERATION] = 1
        self.board[Head.INTERVAL] = 10 * SECOND
        self.board[Head.PATIENCE] = 150 * SECOND
        self.board.head.name, self.board.head.message_id = "/etc/workqueued/workqueued.yaml", "1.2.3"
        self.board.head.note = "0123456789ab"
        self.master_lives = True
        self.dead: set[int] = set()
        self.queue = self.queue_row("mail")
        self.monitor = self.child(Kind.MONITOR, "monitor", 2)
        self.workers = [self.child(Kind.WORKER, f"mail/{number}", 10 + number) for number in range(2)]

    def queue_row(self, name: str, wanted: int = 2) -> Row:
        """A queue with 40 messages, which gets shorter."""
        row = self.board.claim(Kind.QUEUE, name)
        counts = {QueueCell.READY: 40, QueueCell.CONSUMERS: 2, QueueCell.DEAD: 3, QueueCell.WANTED: wanted}
        counts |= {QueueCell.IN_RATE: 1500, QueueCell.OUT_RATE: 3500}
        for cell, count in counts.items():
            row.words[cell] = count + 1
        row.words[QueueCell.SAMPLED] = NOW - 2 * SECOND
        return row

    def child(self, kind: Kind, slot: str, pid: int) -> Row:
        """An idle child."""
        row = self.board.claim(kind, slot)
        row.words[Cell.PID], row.words[Cell.GENERATION], row.words[Cell.PROVEN] = pid, 1, 1
        row.words[Cell.STARTED], row.words[Cell.TICK] = NOW - 900 * SECOND, NOW - 3 * SECOND
        row.words[Cell.STATE] = State.IDLE
        return row

    def busy(self, row: Row, message: str, seconds: int) -> None:
        """Give it a message."""
        row.message_id = message
        row.words[Cell.STATE], row.words[Cell.TASK_STARTED] = State.BUSY, NOW - seconds * SECOND

    def look(self) -> Status:
        """Its status."""
        return read(self.board, NOW, Kernel(lambda _: self.master_lives, self.dead.__contains__, lambda _: 2**25))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A healthy one."""
    return World(tmp_path)


# --- the judgement ---------------------------------------------------------------------------------------------------


def test_a_healthy_board_is_running(world: World) -> None:
    """And everything that it tells is there."""
    world.busy(world.workers[1], "m-1", 7)
    world.workers[0].words[Cell.DONE] = 5
    world.queue.words[QueueCell.PAST_DONE] = 100
    seen = world.look()
    assert (seen.condition, seen.reasons, seen.condition.exit_code) == (Condition.RUNNING, (), 0)
    assert (seen.since, seen.uptime_s, seen.generation, seen.master) == (1_700_000_000, 1000.0, 1, 1)
    assert (seen.version, seen.config_hash) == ("1.2.3", "0123456789ab")
    assert seen.config == "/etc/workqueued/workqueued.yaml"
    (queue,) = seen.queues
    assert (queue.ready, queue.unacked, queue.consumers, queue.dead, seen.delayed) == (40, None, 2, 3, None)
    assert (queue.flow, queue.eta_s) == (Flow(1.5, 3.5), 20.0)
    assert (queue.wanted, queue.serving, queue.in_work, queue.oldest_s, queue.age_s) == (2, 2, 1, 7.0, 2.0)
    assert queue.done == 105
    assert [(one.slot, one.state, one.message_id, one.busy_s) for one in seen.workers] == [
        ("mail/0", "idle", None, None),
        ("mail/1", "busy", "m-1", 7.0),
    ]
    assert seen.workers[0].rss_bytes == 2**25


def _missing(world: World) -> None:
    world.workers[1].clear()


def _dead(world: World) -> None:
    world.dead.add(11)


def _starting(world: World) -> None:
    world.workers[1].words[Cell.PROVEN] = 0
    world.workers[1].words[Cell.STATE] = State.STARTING


def _refused(world: World) -> None:
    world.queue.words[QueueCell.REFUSED] = 1


def _late(world: World) -> None:
    world.queue.words[QueueCell.SAMPLED] = NOW - 31 * SECOND


def _unsampled(world: World) -> None:
    world.queue.words[QueueCell.SAMPLED] = 0


def _silent(world: World) -> None:
    world.workers[0].words[Cell.TICK] = NOW - 76 * SECOND


def _silent_master(world: World) -> None:
    world.board[Head.TICK] = NOW - 91 * SECOND


def _no_monitor(world: World) -> None:
    world.monitor.clear()


def _dead_monitor(world: World) -> None:
    world.dead.add(2)


def _connecting(world: World) -> None:
    world.workers[0].words[Cell.STATE] = State.CONNECTING


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_missing, "mail: 1 of 2 workers (mail/1 is absent, dead or waiting to be started again)"),
        (_dead, "mail: 1 of 2 workers (mail/1 is absent, dead or waiting to be started again)"),
        (_starting, "mail: 1 of 2 workers (mail/1 is starting)"),
        (_refused, "mail: the broker refuses it"),
        (_late, "mail: the monitor's sample is 31 s old"),
        (_unsampled, "mail: the monitor has no sample"),
        (_silent, "mail/0 has shown no sign of life for 76 s"),
        (_silent_master, "the master has shown no sign of life for 91 s"),
        (_no_monitor, "there is no monitor"),
        (_dead_monitor, "there is no monitor"),
        (_connecting, "mail: 1 of 2 workers (mail/0 is connecting)"),
    ],
)
def test_what_is_not_as_it_should_be_is_degraded(world: World, harm: Callable[[World], None], reason: str) -> None:
    """And told."""
    harm(world)
    seen = world.look()
    assert (seen.condition, seen.reasons, seen.condition.exit_code) == (Condition.DEGRADED, (reason,), 1)


def test_a_busy_worker_may_be_silent_for_as_long_as_it_likes(world: World) -> None:
    """A handler may hold the interpreter for hours."""
    world.busy(world.workers[0], "m", 7200)
    world.workers[0].words[Cell.TICK] = NOW - 7200 * SECOND
    assert world.look().condition is Condition.RUNNING


def test_a_sample_that_cannot_be_there_yet_is_not_missed(world: World) -> None:
    """Right after the start."""
    world.queue.words[QueueCell.SAMPLED] = 0
    world.board[Head.STARTED] = NOW - 2 * SECOND
    assert world.look().condition is Condition.RUNNING


@pytest.mark.parametrize(
    ("why", "words"), [(Pause.CONFIGURED, "by the configuration"), (Pause.UNUSABLE, "its command cannot be run")]
)
def test_a_paused_queue_is_told(world: World, why: Pause, words: str) -> None:
    """Its workers are not missed, and the rest may run."""
    world.queue_row("cron", 0 if why is Pause.CONFIGURED else 1).words[QueueCell.PAUSED] = why
    seen = world.look()
    assert (seen.condition, seen.reasons) == (Condition.PAUSED, (f"cron: paused, {words}",))
    assert seen.condition.exit_code == 1


def test_degraded_is_worse_than_paused(world: World) -> None:
    """Both are told."""
    world.queue_row("cron", 0).words[QueueCell.PAUSED] = Pause.CONFIGURED
    world.workers[1].clear()
    seen = world.look()
    assert seen.condition is Condition.DEGRADED
    assert len(seen.reasons) == 2


def test_a_drain_is_no_fault(world: World) -> None:
    """Workers go as they are meant to."""
    world.board[Head.DRAINING] = 1
    world.workers[1].clear()
    seen = world.look()
    assert (seen.condition, seen.reasons, seen.condition.exit_code) == (Condition.DRAINING, (), 1)


@pytest.mark.parametrize(
    ("draining", "words"), [(0, "is gone, and nobody told it to stop"), (1, "has stopped, as it was told")]
)
def test_without_its_master_the_service_is_down(world: World, draining: int, words: str) -> None:
    """Whatever the rest of the board says."""
    world.board[Head.DRAINING] = draining
    world.master_lives = False
    world.queue_row("cron", 0).words[QueueCell.PAUSED] = Pause.CONFIGURED
    seen = world.look()
    assert (seen.condition, seen.reasons) == (Condition.DOWN, (f"the master (pid 1) {words}",))
    assert seen.condition.exit_code == 2


def test_a_queue_that_was_removed_is_shown_until_its_workers_are_gone(world: World) -> None:
    """And is not complained of, however few there are."""
    row = world.queue_row("old")
    row.words[QueueCell.WANTED] = 0
    row.words[QueueCell.SAMPLED] = NOW - 500 * SECOND
    worker = world.child(Kind.WORKER, "old/0", 77)
    seen = world.look()
    assert [queue.name for queue in seen.queues] == ["mail", "old"]
    assert seen.condition is Condition.RUNNING
    worker.clear()
    assert [queue.name for queue in world.look().queues] == ["mail"]


def test_two_workers_of_a_slot_in_a_reload_count_once(world: World) -> None:
    """The successor waits for its predecessor."""
    world.child(Kind.WORKER, "mail/0", 90)
    world.workers[1].clear()
    assert world.look().queues[0].serving == 1


def test_garbage_on_the_board_is_no_crash(world: World) -> None:
    """Whatever a broken disk made of it."""
    for row in (world.queue, world.workers[0], world.monitor):
        for word in range(1, len(row.words)):
            row.words[word] = 0xDEADBEEFDEADBEEF
    seen = world.look()
    assert lines(seen, Style(80))
    assert json.dumps(facts(seen, 0.0))


# --- what the master and the monitor tell ----------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two queues, one of them paused."""
    file = tmp_path / "workqueued.yaml"
    file.write_text(
        "queues: {mail: {handler: 'a:b', workers: 3}, cron: {handler: 'a:b', paused: true}}\n"
        f"run_directory: {tmp_path}\nmonitor: {{interval: 4s}}\n"
    )
    return read_config(file)


def test_the_master_tells_of_its_configuration_and_of_what_it_asks_for(tmp_path: Path, config: Config) -> None:
    """And when that changes."""
    board = Scoreboard.create(tmp_path)
    bulletin, pool = Bulletin(board, "9.9"), Pool(config)
    bulletin.lay_out(config)
    bulletin.announce(config, pool)
    bulletin.turn(pool)
    assert (board.head.name, board.head.message_id) == (str(config.file), "9.9")
    assert board.head.note == short_hash(config.file.read_bytes())
    assert (board[Head.GENERATION], board[Head.INTERVAL], board[Head.PATIENCE]) == (1, 4 * SECOND, 150 * SECOND)
    mail, cron = bulletin.rows["mail"].words, bulletin.rows["cron"].words
    assert (mail[QueueCell.WANTED], cron[QueueCell.WANTED]) == (4, 1)
    assert (mail[QueueCell.PAUSED], cron[QueueCell.PAUSED]) == (Pause.NONE, Pause.CONFIGURED)
    pool.pause("mail", generation=1)
    pool.fates["mail"].refused_until = time.monotonic() + 60
    pool.stop(0.0)
    bulletin.turn(pool)
    assert (mail[QueueCell.PAUSED], mail[QueueCell.REFUSED]) == (Pause.UNUSABLE, 1)
    assert board[Head.DRAINING] == 1


def test_what_workers_that_are_gone_have_settled_goes_on_to_count(tmp_path: Path, config: Config) -> None:
    """The sum over a queue never falls."""
    board = Scoreboard.create(tmp_path)
    bulletin = Bulletin(board, "")
    bulletin.lay_out(config)
    for number in range(2):
        worker = board.claim(Kind.WORKER, f"mail/{number}")
        worker.words[Cell.DONE], worker.words[Cell.RETRIED], worker.words[Cell.DEAD] = 5, 2, 1
        bulletin.retire("mail", worker)
    bulletin.retire("", board.claim(Kind.MONITOR, "monitor"))
    assert list(board.rows(Kind.WORKER, Kind.MONITOR)) == []
    words = bulletin.rows["mail"].words
    assert [words[cell] for cell in (QueueCell.PAST_DONE, QueueCell.PAST_RETRIED, QueueCell.PAST_DEAD)] == [10, 4, 2]


def test_the_counts_of_a_damaged_row_do_not_take_the_master_along(tmp_path: Path, config: Config) -> None:
    """A handler's C code may write anywhere."""
    board = Scoreboard.create(tmp_path)
    bulletin = Bulletin(board, "")
    bulletin.lay_out(config)
    worker = board.claim(Kind.WORKER, "mail/0")
    for _ in range(2):
        for word in range(TIMINGS_AT, TIMINGS_AT + TIMINGS_WORDS):
            worker.words[word] = LARGEST
        worker.words[Cell.DONE] = LARGEST
        bulletin.retire("mail", worker)
    assert bulletin.rows["mail"].words[QueueCell.PAST_DONE] == LARGEST
    teller = Teller("mail", config.queues["mail"], Alerts(), bulletin.rows["mail"])
    whole = Whole(2**70, Flow(0.0, 1e30))
    teller.tell(Samples({"mail": Depth(1, 1, None)}, 5.0, None), whole, [], frozenset())
    assert bulletin.rows["mail"].words[QueueCell.UNACKED] == LARGEST
    assert bulletin.rows["mail"].words[QueueCell.OUT_RATE] == LARGEST


def test_the_last_eight_deaths_are_kept(world: World) -> None:
    """The newest first; with what was in hand, if anything was."""
    last = LastDeaths(world.board)
    for number in range(10):
        last.add(f"mail/{number}", number, "SIGKILL", f"m-{number}" if number % 2 else None)
    seen = world.look().deaths
    assert [(one.slot, one.pid, one.message_id) for one in seen] == [
        (f"mail/{number}", number, f"m-{number}" if number % 2 else None) for number in range(9, 1, -1)
    ]
    assert {one.cause for one in seen} == {"SIGKILL"}
    assert abs(seen[0].at - time.time()) < 60


def test_a_new_master_remembers_the_deaths_of_its_predecessor_s_time(tmp_path: Path) -> None:
    """A restart is when one wants to know."""
    former = World(tmp_path)
    LastDeaths(former.board).add("mail/0", 7, "SIGSEGV", "m")
    new = World(tmp_path)
    LastDeaths(new.board, former.board).add("mail/1", 8, "SIGKILL", None)
    assert [(one.slot, one.pid) for one in new.look().deaths] == [("mail/1", 8), ("mail/0", 7)]


def test_a_death_that_is_being_written_is_none(world: World) -> None:
    """The master may be killed in the middle."""
    LastDeaths(world.board).add("mail/0", 7, "SIGSEGV", "m")
    (row,) = [row for row in world.board.rows(Kind.DEATH) if row.words[DeathCell.AT]]
    row.words[DeathCell.AT] = 0
    assert world.look().deaths == ()


def test_the_coroner_notes_every_death(world: World) -> None:
    """With its cause in short."""
    coroner = Coroner(Evidence(world.board), LastDeaths(world.board))
    world.busy(world.workers[0], "poison", 3)
    coroner.examine(Death(10, None, 11), world.workers[0], Child(10, "mail/0", "mail", 1, 0.0, held=False), None)
    coroner.examine(Death(2, 1, None), world.monitor, Child(2, "monitor", "", 1, 0.0, held=False), None)
    seen = [(one.slot, one.cause, one.message_id) for one in world.look().deaths]
    assert seen == [("monitor", "exit code 1", None), ("mail/0", "SIGSEGV", "poison")]


def test_rates_are_measured_from_one_look_to_the_next() -> None:
    """What came in is the difference and what was settled."""
    meter = Meter()
    assert meter.measure(10.0, 100, 50) == Flow()
    assert meter.measure(12.0, 90, 60) == Flow(0.0, 5.0)
    assert meter.measure(14.0, 100, 60) == Flow(5.0, 0.0)
    assert meter.measure(14.0, 100, 60) == Flow()


def test_no_rate_is_negative() -> None:
    """Other hosts consume too, and a count goes back when the row of a worker is cleared."""
    meter = Meter()
    meter.measure(10.0, 100, 50)
    assert meter.measure(11.0, 10, 40) == Flow(0.0, 0.0)
    assert meter.measure(12.0, 10, 49) == Flow(0.0, 0.0)
    assert meter.measure(13.0, 10, 52) == Flow(2.0, 2.0)


def test_after_an_unknown_depth_measuring_begins_anew() -> None:
    """A difference to nothing is none."""
    meter = Meter()
    meter.measure(10.0, 100, 50)
    assert meter.measure(11.0, None, 60) == Flow()
    assert meter.measure(12.0, 100, 70) == Flow()
    assert meter.measure(13.0, 100, 72) == Flow(2.0, 2.0)


@pytest.mark.parametrize(
    ("ready", "in_rate", "out_rate", "seconds"),
    [
        (100, 1.0, 3.0, 50.0),
        (0, 5.0, 1.0, 0.0),
        (0, None, None, 0.0),
        (100, 3.0, 3.0, None),
        (100, None, 3.0, None),
        (None, 1.0, 3.0, None),
    ],
)
def test_an_eta_is_told_where_a_queue_gets_shorter(
    ready: int | None, in_rate: float | None, out_rate: float | None, seconds: float | None
) -> None:
    """And nowhere else."""
    assert eta(ready, Flow(in_rate, out_rate)) == seconds


# --- for people ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_everything(world: World) -> None:
    """Columns as documented."""
    world.busy(world.workers[1], "m-1", 7)
    LastDeaths(world.board).add("mail/0", 9, "SIGKILL", "m-0")
    shown = lines(world.look(), Style(), changed=True)
    assert re.fullmatch(
        r"running since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(16m40s\)  version 1\.2\.3  /etc/workqueued/workqueued\.yaml "
        r"0123456789ab \(the file has changed since\)  generation 1",
        shown[0],
    )
    assert " ".join(shown[2].split()) == (
        "QUEUE READY UNACKED CONSUMERS IN/S OUT/S ETA OLDEST DEAD WORKERS SAMPLED STATE"
    )
    assert shown[3].split() == ["mail", "40", "-", "2", "1.5", "3.5", "20s", "7.0s", "3", "2/2", "2.0s", "running"]
    assert shown[5].split() == ["SLOT", "STATE", "PID", "UPTIME", "MESSAGE", "AGE", "DONE", "RETRIED", "DEAD", "RSS"]
    assert shown[6].split() == ["mail/0", "idle", "10", "15m00s", "-", "-", "0", "0", "0", "32M"]
    assert shown[7].split() == ["mail/1", "busy", "11", "15m00s", "m-1", "7.0s", "0", "0", "0", "32M"]
    assert shown[9].startswith("LAST DEATHS")
    assert shown[10].split()[2:] == ["mail/0", "9", "SIGKILL", "m-0"]


@pytest.mark.parametrize(
    ("delayed", "words"),
    [
        (7, "7 delayed messages wait for their time, in all queues of the vhost"),
        (1, "1 delayed message waits for its time, in all queues of the vhost"),
    ],
)
def test_delayed_messages_are_told_of_all_queues_together(world: World, delayed: int, words: str) -> None:
    """They wait in levels that all queues share, so nobody can tell whose they are."""
    world.monitor.words[Cell.DELAYED] = delayed + 1
    assert lines(world.look(), Style())[4] == words
    world.monitor.words[Cell.DELAYED] = 1
    assert words[2:15] not in "".join(lines(world.look(), Style()))


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 20])
@pytest.mark.parametrize("name", ["mail", "q" * 250, "行列" * 40])
def test_no_line_is_longer_than_the_terminal_is_wide(world: World, width: int, name: str) -> None:
    """Nor wraps, which would spoil what is drawn in place."""
    world.queue.name = name
    world.workers[1].name = f"{name}/1"
    world.busy(world.workers[1], "m" * 255, 7)
    LastDeaths(world.board).add(f"{name}/0", 9, "SIGKILL", "m" * 255)
    history = History()
    history.note(world.look(), 100.0)
    for line in lines(world.look(), Style(width), changed=True, history=history):
        assert columns(line) <= width


def test_nothing_that_a_stranger_chose_reaches_the_terminal_as_it_is(world: World) -> None:
    """Message ids, names, paths, causes: their control characters are shown."""
    world.queue.name = HOSTILE
    world.workers[1].name = f"{HOSTILE}/1"
    world.busy(world.workers[1], HOSTILE, 7)
    world.board.head.name = world.board.head.message_id = world.board.head.note = HOSTILE
    world.queue.words[QueueCell.REFUSED] = 1
    LastDeaths(world.board).add(HOSTILE, 9, HOSTILE, HOSTILE)
    seen = world.look()
    for width in (None, 80, 30):
        for line in lines(seen, Style(width), changed=True):
            assert not _CONTROL.search(line)
    assert not _CONTROL.search(json.dumps(facts(seen, 0.0)))
    _, line = check(seen, Thresholds(1.0, 2.0, 1, 2))
    assert not _CONTROL.search(line)
    assert line.count("|") == 1


def test_colour_is_used_where_it_is_wanted_only(world: World) -> None:
    """And the state is a word all the same."""
    assert not any("\x1b" in line for line in lines(world.look(), Style(80)))
    assert lines(world.look(), Style(80, colour=True))[0].startswith("\x1b[32mrunning\x1b[0m since")


def test_what_is_down_has_a_state_and_a_reason() -> None:
    """And no tables."""
    assert lines(down("there is no scoreboard"), Style(80)) == ["down", "  there is no scoreboard"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"), (0.0, "0.0s"), (9.94, "9.9s"), (10.2, "10s"), (99.4, "99s"), (100, "1m40s"), (5999, "99m59s"),
        (6000, "1h40m"), (100_000, "27h46m"), (200_000, "2d07h"),
    ],
)  # fmt: skip
def test_a_duration_is_short(seconds: float | None, words: str) -> None:
    """Two units at most."""
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""), ([0, 0], "▁▁"), ([None, None], "  "), ([0, 1, 7], "▁▂█"), ([7, None, 0], "█ ▁"),
        ([1, 1000], "▂█"), ([5], "█"),
    ],
)  # fmt: skip
def test_a_sparkline_shows_more_and_less(values: list[int | None], line: str) -> None:
    """The lowest step is for nothing at all: one message among a thousand is seen."""
    assert sparkline(values) == line
    assert len(sparkline(values, PLAIN_BLOCKS)) == len(line)
    assert len(BLOCKS) == len(PLAIN_BLOCKS)


def test_a_sparkline_has_a_step_for_each_sample_however_often_one_looks(world: World) -> None:
    """And holds so many of them."""
    history = History()
    seen = world.look()
    history.note(seen, 100.0)
    history.note(seen._replace(queues=(seen.queues[0]._replace(age_s=4.0),)), 102.0)
    assert len(history.line("mail")) == 1
    for number in range(100):
        history.note(seen, 200.0 + number)
    assert len(history.line("mail")) == SPARKS
    assert history.line("another") == ""


# --- for programs ----------------------------------------------------------------------------------------------------


def documented(heading: str) -> set[str]:
    """The keys in the table under a heading of docs/status.md."""
    text = (Path(__file__).parents[2] / "docs/status.md").read_text()
    section = text.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))


def test_json_has_the_keys_that_are_documented(world: World) -> None:
    """No more, and no less."""
    LastDeaths(world.board).add("mail/0", 9, "SIGKILL", "m-0")
    told: Any = json.loads(json.dumps(facts(world.look(), 1_700_000_000.25, changed=False)))
    assert set(told) == documented("The whole")
    assert set(told["queues"][0]) == documented("A queue")
    assert set(told["workers"][0]) == documented("A worker")
    assert set(told["monitor"]) <= documented("A worker")
    assert set(told["deaths"][0]) == documented("A death")
    assert told["time"] == "2023-11-14T22:13:20.250Z"
    assert (told["state"], told["config_changed"], told["master_pid"]) == ("running", False, 1)


def test_json_of_what_is_down_has_the_same_keys() -> None:
    """So that nobody's program stumbles."""
    told = facts(down("gone"), 0.0)
    assert set(told) == documented("The whole")
    assert (told["state"], told["queues"], told["since"]) == ("down", [], None)


# --- for a monitoring system -----------------------------------------------------------------------------------------

BY_ETA = Thresholds(warn_eta=300.0, crit_eta=1800.0)


def backlog(world: World, **changes: Any) -> Status:
    """The status with a queue that differs so."""
    seen = world.look()
    return seen._replace(queues=(seen.queues[0]._replace(**changes),))


@pytest.mark.parametrize(
    ("changes", "limits", "level"),
    [
        ({}, BY_ETA, Level.OK),
        ({"eta_s": 301.0}, BY_ETA, Level.WARNING),
        ({"eta_s": 1801.0}, BY_ETA, Level.CRITICAL),
        ({"eta_s": 1801.0}, Thresholds(warn_eta=300.0), Level.WARNING),
        ({"ready": 100}, Thresholds(warn_ready=100, crit_ready=200), Level.OK),
        ({"ready": 101}, Thresholds(warn_ready=100, crit_ready=200), Level.WARNING),
        ({"ready": 201}, Thresholds(warn_ready=100, crit_ready=200), Level.CRITICAL),
        ({"eta_s": None, "flow": Flow(5.0, 5.0)}, BY_ETA, Level.OK),
        ({"eta_s": None, "ready": 9001, "flow": Flow(5.0, 5.0)}, BY_ETA, Level.CRITICAL),
        ({"eta_s": None, "ready": 2000, "flow": Flow(5.0, 5.0)}, BY_ETA, Level.WARNING),
        ({"eta_s": None, "flow": Flow()}, BY_ETA, Level.UNKNOWN),
        ({"eta_s": None, "flow": Flow()}, Thresholds(warn_ready=100), Level.OK),
        ({"eta_s": None, "flow": Flow(1.0, 0.0)}, BY_ETA, Level.OK),
        ({"eta_s": None, "flow": Flow(1.0, 0.0), "serving": 0}, BY_ETA, Level.CRITICAL),
        ({"eta_s": None, "flow": Flow(1.0, 0.0), "consumers": 0}, BY_ETA, Level.CRITICAL),
        ({"ready": None}, BY_ETA, Level.UNKNOWN),
        ({"age_s": 31.0}, BY_ETA, Level.UNKNOWN),
        ({"age_s": None}, BY_ETA, Level.UNKNOWN),
    ],
)
def test_a_backlog_is_graded(world: World, changes: dict[str, Any], limits: Thresholds, level: Level) -> None:
    """More than a threshold is too much; what nobody knows is unknown."""
    assert check(backlog(world, **changes), limits)[0] == level


def test_the_line_of_a_plugin_is_as_its_guidelines_want_it(world: World) -> None:
    """A word, the queues, and performance data with thresholds and units."""
    code, line = check(world.look(), Thresholds(300.0, 1800.0, 1000, 5000))
    assert code == 0
    assert line == (
        "WORKQUEUED OK - mail: 40 ready, eta 20s | 'mail ready'=40;1000;5000;0 'mail eta'=20s;300;1800;0 "
        "'mail in'=1.500;;;0 'mail out'=3.500;;;0"
    )


def test_the_worst_queue_decides_and_comes_first(world: World) -> None:
    """A plugin's line may be cut."""
    world.queue_row("cron")
    seen = world.look()
    bad = [queue._replace(eta_s=4000.0) if queue.name == "mail" else queue for queue in seen.queues]
    code, line = check(seen._replace(queues=tuple(bad)), BY_ETA)
    assert code == Level.CRITICAL
    assert line.startswith("WORKQUEUED CRITICAL - mail: 40 ready, eta 66m40s; cron: 40 ready, eta 20s | ")


def test_what_is_down_is_critical_and_what_is_not_there_unknown(world: World) -> None:
    """Also when there are no figures."""
    assert check(down("gone"), BY_ETA) == (Level.CRITICAL, "WORKQUEUED CRITICAL - down: gone")
    assert check(world.look()._replace(queues=()), BY_ETA)[0] == Level.UNKNOWN


def test_names_do_not_break_performance_data(world: World) -> None:
    """Quotes are doubled, = and | replaced."""
    _, line = check(backlog(world, name="it's a|b=c"), BY_ETA)
    assert "'it''s a/b_c ready'=40" in line
    assert line.count("|") == 1


def test_an_unknown_figure_is_u(world: World) -> None:
    """By the guidelines."""
    for unknown in ({"eta_s": None, "ready": None, "flow": Flow()}, {"age_s": 31.0}, {"age_s": None}):
        _, line = check(backlog(world, **unknown), BY_ETA)
        assert line.endswith("'mail ready'=U;;;0 'mail eta'=U;300;1800;0 'mail in'=U;;;0 'mail out'=U;;;0")


def test_a_queue_that_nobody_serves_is_never_empty(world: World) -> None:
    """Unless it is now."""
    queue: QueueStatus = world.look().queues[0]
    assert estimate(queue._replace(eta_s=None, flow=Flow(0.0, 0.0), serving=0))[0] == math.inf
    assert estimate(queue._replace(eta_s=0.0, ready=0, serving=0))[0] == 0.0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("queues: {}\n", RUN_DIRECTORY),
        ("run_directory: /srv/run\n", Path("/srv/run")),
        ("a: 1\nrun_directory: run   # beside this file\nb: 2\n", Path("/etc/wq/run")),
        ("run_directory: ../run\n", Path("/etc/run")),
        ("# run_directory: /no\nqueues: {}\n", RUN_DIRECTORY),
        ("# run_directory: /no\nrun_directory: /yes\n", Path("/yes")),
        ('run_directory: "/srv/run"\n', None),
        ("run_directory: ${HOME}/run\n", None),
        ("run_directory: yes\n", None),
        ("run_directory: 5\n", None),
        ("run_directory: /a\nrun_directory: /b\n", None),
        ("run_directory: >\n  /srv/run\n", None),
        ("run_directory: /srv/my run\n", None),
        ("{run_directory: /srv/run}\n", None),
        ("queues:\n  q:\n    environment:\n      run_directory: /no\n", None),
        ('"run\\u005fdirectory": /srv/run\n', None),
        ("run_directory: &a /srv/run\n", None),
    ],
)
def test_a_run_directory_is_gleaned_only_where_there_is_no_doubt(content: str, found: Path | None) -> None:
    """Everything else is read as YAML."""
    assert glean_run_directory(Path("/etc/wq/workqueued.yaml"), content) == found


@pytest.mark.parametrize(
    "arguments",
    [
        "--bogus", "extra", "--interval 2s", "--watch --interval soon", "--watch --interval 0s", "--warn-eta 5m",
        "--queue mail", "--check-backlog --json", "--check-backlog --watch", "--check-backlog --warn-ready many",
        "--check-backlog --warn-eta 30m --crit-eta 5m", "--check-backlog --warn-ready 5 --crit-ready 4",
        "--config a --run-directory b",
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told(arguments: str) -> None:
    """With 64, by `main`."""
    with pytest.raises(UsageError):
        command._parse(arguments.split())
    assert command.main(arguments.split()) == os.EX_USAGE


def test_where_no_master_has_run_the_service_is_down(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 2."""
    assert command.main(["--run-directory", str(tmp_path)]) == 2
    assert capfd.readouterr().out == f"down\n  there is no scoreboard in {tmp_path}: no master has run there\n"
    assert command.main(["--run-directory", str(tmp_path), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["state"] == "down"
    assert command.main(["--run-directory", str(tmp_path), "--check-backlog"]) == 2


def test_a_board_of_another_version_is_no_word_on_the_service(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor is one that cannot be read: 74, and UNKNOWN to a monitoring system."""
    board = Scoreboard.create(tmp_path)
    board[Head.MAGIC] -= 1
    assert command.main(["--run-directory", str(tmp_path)]) == os.EX_IOERR
    assert "is of another version; ask with the command of the workqueued that runs" in capfd.readouterr().err
    assert command.main(["--run-directory", str(tmp_path), "--check-backlog"]) == Level.UNKNOWN
    assert capfd.readouterr().out.startswith(f"WORKQUEUED UNKNOWN - {tmp_path}")


def test_it_answers_although_the_configuration_is_wrong_elsewhere(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an edit one wants to know how things are, too."""
    config.file.write_text(config.file.read_text() + "nonsense: true\n")
    monkeypatch.setenv("WQ_CONFIG", str(config.file))
    assert command.main([]) == 2
    assert f"there is no scoreboard in {tmp_path}" in capfd.readouterr().out
    config.file.write_text(f"run_directory: '{tmp_path}'\nnonsense: true\n")
    assert command.main([]) == os.EX_CONFIG
    assert command.main(["--config", str(tmp_path / "absent")]) == os.EX_CONFIG


def test_a_master_that_holds_no_lock_is_dead_whoever_has_its_pid_now(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A pid comes again; this one is ours, and alive."""
    Scoreboard.create(tmp_path)
    (tmp_path / "lock").touch()
    assert lock_holder(tmp_path / "lock") is None
    assert command.main(["--run-directory", str(tmp_path)]) == 2
    assert f"the master (pid {os.getpid()}) is gone" in capfd.readouterr().out


def test_an_edit_since_the_last_reload_is_told(tmp_path: Path, config: Config) -> None:
    """The service does not run what the file says now."""
    board = Scoreboard.create(tmp_path)
    Bulletin(board, "").announce(config, Pool(config))
    found = command.Board(tmp_path, config.file)
    assert found.changed(found.look()) is False
    config.file.write_text(config.file.read_text() + "# edited\n")
    assert found.changed(found.look()) is True
    assert command.Board(tmp_path, tmp_path / "another").changed(found.look()) is None
    config.file.unlink()
    assert found.changed(found.look()) is None
