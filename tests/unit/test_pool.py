"""The pool, tested as histories: what happened, and what it plans then."""

import os
import sys
from dataclasses import replace
from typing import Any

import pytest
from histories import History, config

from workqueued.pool import MONITOR
from workqueued.slots import Action, Drain, Ending, HandBack, Kill, Release, Spawn

EX_NOPERM, EX_CONFIG = os.EX_NOPERM, os.EX_CONFIG


def spawned(actions: list[Action]) -> list[str]:
    """The slots of the spawns."""
    return [action.slot for action in actions if isinstance(action, Spawn)]


# --- start -----------------------------------------------------------------------------------------------------------


def test_the_first_child_of_each_queue_goes_alone() -> None:
    """Until the canary is ready nobody else is started, so that a broken handler is met once."""
    history = History(config(a=3, b=2))
    assert spawned(history.step()) == [MONITOR, "a/0", "b/0"]
    assert history.step() == []
    history.ready("a/0")
    assert spawned(history.step()) == ["a/1", "a/2"]
    history.ready("b/0")
    assert spawned(history.step()) == ["b/1"]


def test_a_paused_queue_has_no_children() -> None:
    """Its slots do not exist."""
    history = History(config(a={"workers": 3, "paused": True}, b=1))
    assert spawned(history.step()) == [MONITOR, "b/0"]


def test_a_child_at_first_start_need_not_wait_for_a_word() -> None:
    """Only a successor is held."""
    history = History(config(a=1))
    assert history.step() == [Spawn(MONITOR, hold=False), Spawn("a/0", hold=False)]


def test_a_bad_handler_at_first_start_is_the_end() -> None:
    """78, and everything else is told to stop by the master."""
    history = History(config(a=2, b=1))
    history.step()
    assert history.dies("a/0", EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.verdict == EX_CONFIG


def test_the_only_queue_refused_at_first_start_is_the_end() -> None:
    """Never a restart loop."""
    history = History(config(a=2))
    history.step()
    assert history.dies("a/0", EX_NOPERM) is Ending.REFUSED
    assert history.pool.verdict == EX_CONFIG


def test_a_paused_queue_does_not_keep_a_daemon_alive_whose_only_active_queue_is_refused() -> None:
    """Nothing can be served."""
    history = History(config(a=1, b={"workers": 1, "paused": True}))
    history.step()
    history.dies("a/0", EX_NOPERM)
    assert history.pool.verdict == EX_CONFIG


def test_a_queue_that_was_refused_may_fail_to_import_later_without_ending_the_daemon() -> None:
    """A deploy in the very minute in which it is tried again."""
    history = History(config(a=1, b=1))
    history.step()
    history.ready("a/0")
    history.dies("b/0", EX_NOPERM)
    history.step(61)
    assert history.dies("b/0", EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.verdict is None


def test_one_refused_queue_of_two_is_tried_again_each_minute_by_one_child() -> None:
    """The other works meanwhile."""
    history = History(config(a=3, b=1))
    history.step()
    history.ready("b/0")
    history.dies("a/0", EX_NOPERM)
    assert history.pool.verdict is None
    assert history.pool.refused(history.now) == ["a"]
    assert history.step(59) == []
    assert spawned(history.step(2)) == ["a/0"]
    history.ready("a/0")
    assert spawned(history.step()) == ["a/1", "a/2"]


def test_all_queues_refused_one_after_the_other_is_the_end() -> None:
    """Not before the last."""
    history = History(config(a=1, b=1))
    history.step()
    history.dies("a/0", EX_NOPERM)
    assert history.pool.verdict is None
    history.dies("b/0", EX_NOPERM)
    assert history.pool.verdict == EX_CONFIG


def test_a_queue_refused_later_in_life_is_not_the_end() -> None:
    """Somebody deleted it and made another: loud, tried again, but the daemon stays."""
    history = History(config(a=1))
    history.settle_in()
    assert history.dies("a/0", EX_NOPERM) is Ending.REFUSED
    assert history.pool.verdict is None


def test_a_refusal_of_before_a_reload_says_nothing_about_the_queue_of_now() -> None:
    """The reload was for it, and came while the child that was refused had not been reaped."""
    history = History(config(a=1, b=1))
    history.step()
    history.ready("a/0")
    history.pool.reload(config(a=1, b=1))
    assert history.dies("b/0", EX_NOPERM) is Ending.REFUSED
    assert history.pool.refused(history.now) == []
    assert "b/0" in spawned(history.step())


def test_the_only_queues_refusal_of_before_a_reload_is_not_the_end() -> None:
    """It has just been mended."""
    history = History(config(a=1))
    history.step()
    history.pool.reload(config(a=1))
    history.dies("a/0", EX_NOPERM)
    assert history.pool.verdict is None
    assert spawned(history.step()) == ["a/0"]


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_a_healthy_child_is_replaced_at_once() -> None:
    """Also the hundredth time: it had lived, or worked."""
    history = History(config(a=2))
    history.settle_in()
    for _ in range(5):
        history.now += 10
        assert history.dies("a/1") is Ending.DIED
        assert spawned(history.step()) == ["a/1"]
        history.ready("a/1")
    assert history.dies("a/1", settled=1) is Ending.DIED
    assert spawned(history.step()) == ["a/1"]


def test_a_slot_that_crashes_again_and_again_backs_off_up_to_a_minute() -> None:
    """At once, then 0.5 s, 1 s, 2 s … 60 s; and the pool asks to be woken for it."""
    history = History(config(a=1))
    history.settle_in()
    history.dies("a/0")
    assert spawned(history.step()) == ["a/0"]
    waits = []
    for _ in range(10):
        history.dies("a/0")
        begin = history.now
        while not spawned(history.step()):
            wait = history.deadline()
            assert wait is not None
            history.now += wait
            history.ready(MONITOR)  # a sign of life
        waits.append(history.now - begin)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_work_done_ends_the_back_off() -> None:
    """A child that settled a delivery was healthy."""
    history = History(config(a=1))
    history.settle_in()
    for _ in range(3):
        history.dies("a/0")
        history.step(5)
        history.ready("a/0")
    history.dies("a/0", settled=1)
    assert spawned(history.step()) == ["a/0"]


def test_a_child_that_leaves_unasked_with_code_0_is_replaced() -> None:
    """Somebody sent it SIGTERM by hand."""
    history = History(config(a=1))
    history.settle_in()
    assert history.dies("a/0", 0) is Ending.DIED
    assert spawned(history.step()) == ["a/0"]


def test_a_fork_that_fails_is_tried_again_after_a_second_or_more() -> None:
    """No busy loop on a host without processes."""
    history = History(config(a=1))
    actions = history.pool.plan(history.now)
    assert spawned(actions) == [MONITOR, "a/0"]
    history.pool.spawn_failed(MONITOR, history.now)
    history.pool.spawn_failed("a/0", history.now)
    assert history.step() == []
    wait = history.deadline()
    assert wait is not None
    assert wait >= 1.0
    assert spawned(history.step(wait)) == [MONITOR, "a/0"]


def test_a_child_without_a_sign_of_life_is_killed_and_replaced() -> None:
    """Not before two minutes, and once."""
    history = History(config(a=1))
    history.settle_in()
    pid = history.pids["a/0"]
    history.now += 100
    history.ready(MONITOR)
    assert history.step() == []
    history.now += 60  # 4 x (heartbeat + 5 s) and one connect_timeout after its last sign
    assert history.step() == [Kill(pid, "no sign of life")]
    assert history.step() == []
    assert history.dies("a/0") is Ending.DIED
    assert spawned(history.step()) == ["a/0"]


def test_a_master_that_was_stopped_forgives_its_children() -> None:
    """They were stopped with it, and have had no time to tick."""
    history = History(config(a=1))
    history.settle_in()
    history.now += 3600
    history.pool.forgive(history.now)
    assert history.step() == []


def test_a_busy_child_is_never_stale() -> None:
    """A handler may hold the interpreter for as long as it likes."""
    history = History(config(a=1))
    history.settle_in()
    history.pool.observed(history.pids["a/0"], ready=True, tick=history.now, busy=True)
    history.now += 3600
    history.ready(MONITOR)
    assert history.step() == []


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_replaces_each_slot_new_before_old_and_held_until_the_old_is_gone() -> None:
    """Canary first; then one successor at a time; none consumes before its predecessor has gone."""
    history = History(config(a=2))
    history.settle_in()
    old = dict(history.pids)
    history.pool.reload(config(a=2))
    assert history.step() == [Drain(old[MONITOR]), Spawn("a/0", hold=True)]
    assert history.step() == []
    history.ready("a/0")
    assert history.step() == [Drain(old["a/0"]), Spawn("a/1", hold=True)]
    history.ready("a/1")
    assert history.step() == [Drain(old["a/1"])]
    assert history.dies("a/0", 0, pid=old["a/0"]) is Ending.STOPPED
    assert history.step() == [Release(history.pids["a/0"])]
    assert history.dies("a/1", 0, pid=old["a/1"]) is Ending.STOPPED
    assert history.step() == [Release(history.pids["a/1"])]
    assert history.dies(MONITOR, 0) is Ending.STOPPED
    assert spawned(history.step()) == [MONITOR]
    assert history.step() == []


def test_a_successor_is_released_when_the_old_one_crashes_meanwhile() -> None:
    """Ready or not: it takes over when it is ready."""
    history = History(config(a=1))
    history.settle_in()
    old = history.pids["a/0"]
    history.pool.reload(config(a=1))
    history.step()
    history.dies("a/0", pid=old)
    assert history.step() == []
    history.ready("a/0")
    assert history.step() == [Release(history.pids["a/0"])]


def test_a_failed_canary_leaves_the_old_generation_at_work() -> None:
    """No other successor is tried, the verdict stays open, and the next reload tries again."""
    history = History(config(a=2))
    history.settle_in()
    history.pool.reload(config(a=2))
    history.step()
    history.dies(MONITOR, 0, pid=100)
    history.step()
    assert history.dies("a/0", EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.verdict is None
    assert spawned(history.step(120)) == []
    assert len(list(history.pool.children())) == 3
    history.pool.reload(config(a=2))
    assert "a/0" in spawned(history.step())


def test_a_slot_that_crashes_after_a_failed_canary_loads_the_new_code() -> None:
    """As the log says; and as that code is broken, with backoff."""
    history = History(config(a=2))
    history.settle_in()
    old = dict(history.pids)
    history.pool.reload(config(a=2))
    history.step()
    history.dies("a/0", EX_CONFIG)
    history.now += 10
    history.dies("a/1", pid=old["a/1"])
    assert "a/1" in spawned(history.step())
    assert history.dies("a/1", EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.verdict is None


def test_a_new_queue_with_a_bad_handler_does_not_end_a_running_daemon() -> None:
    """78 is for the first start only."""
    history = History(config(a=1))
    history.settle_in()
    history.pool.reload(config(a=1, b=1))
    history.step()
    assert history.dies("b/0", EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.verdict is None


def test_a_child_that_never_got_ready_is_not_waited_for_in_a_reload() -> None:
    """Its password was wrong: it serves nothing, and its slot is free for the mended one."""
    history = History(config(a=2))
    history.step()
    history.pool.reload(config(a=2))
    assert Drain(history.pids["a/0"]) in history.step()
    history.dies("a/0", 0)
    assert "a/0" in spawned(history.step())


def test_scaling_down_drains_the_highest_slots_without_a_time_limit() -> None:
    """They finish their tasks, however long."""
    history = History(config(a=3))
    history.settle_in()
    old = dict(history.pids)
    history.pool.reload(config(a=1))
    drained = {action.pid for action in history.step() if isinstance(action, Drain)}
    assert drained == {old[MONITOR], old["a/1"], old["a/2"]}
    history.pool.observed(old["a/2"], ready=True, tick=history.now, busy=True)
    assert not [action for action in history.step(3600) if action in (HandBack(old["a/2"]), Kill(old["a/2"], ""))]
    history.dies("a/2", 0)
    history.dies("a/1", 0)
    assert "a/2" not in history.pool.slots
    assert spawned(history.step()) == []


def test_a_second_reload_overtakes_the_first() -> None:
    """The successor of the middle generation is drained, not left behind."""
    history = History(config(a=1))
    history.settle_in()
    old = history.pids["a/0"]
    history.pool.reload(config(a=1))
    history.step()
    middle = history.pids["a/0"]
    history.pool.reload(config(a=1))
    assert Drain(middle) in history.step()
    history.dies("a/0", 0)
    assert Spawn("a/0", hold=True) in history.step()
    history.ready("a/0")
    assert history.step() == [Drain(old)]


def test_a_removed_queue_comes_back_with_a_later_reload() -> None:
    """While its old worker still drains, a new one is started as its successor."""
    history = History(config(a=1, b=1))
    history.settle_in()
    history.pool.reload(config(a=1))
    assert Drain(history.pids["b/0"]) in history.step()
    history.pool.reload(config(a=1, b=1))
    assert "b/0" in spawned(history.step())


def test_a_child_that_drains_is_told_again() -> None:
    """Its handler may have taken the signal for itself."""
    history = History(config(a=2))
    history.settle_in()
    worker = history.pids["a/1"]
    history.pool.observed(worker, ready=True, tick=history.now, busy=True)
    history.pool.reload(config(a=1))
    assert Drain(worker) in history.step()
    history.dies(MONITOR, 0, pid=100)
    history.step(15)
    assert Drain(worker) in history.step(16)
    assert Drain(worker) not in history.step(1)


# --- stop ------------------------------------------------------------------------------------------------------------


def test_a_stop_drains_then_hands_back_then_kills() -> None:
    """TERM at once, QUIT at the drain timeout, KILL five seconds later; each once."""
    history = History(replace(config(a=1), drain_timeout=30.0))
    history.settle_in()
    monitor, worker = history.pids[MONITOR], history.pids["a/0"]
    history.pool.observed(worker, ready=True, tick=history.now, busy=True)
    history.pool.stop(history.now)
    assert history.step() == [Drain(monitor), Drain(worker)]
    history.dies(MONITOR, 0)
    assert history.deadline() == 30.0
    assert history.step(29.9) == []
    assert history.step(0.1) == [HandBack(worker)]
    assert history.deadline() == 5.0
    assert history.step(4.9) == []
    assert history.step(0.2) == [Kill(worker, "did not hand back in time")]
    assert history.step() == []
    assert history.dies("a/0") is Ending.STOPPED
    assert history.pool.finished


def test_quit_hands_back_at_once_also_in_the_middle_of_a_drain() -> None:
    """A second, harder signal is obeyed; a second soft one changes nothing."""
    history = History(config(a=1))
    history.settle_in()
    history.pool.stop(history.now)
    history.step()
    history.pool.stop(history.now + 5)
    assert history.step(5) == []
    history.pool.stop(history.now, patience=0.0)
    assert HandBack(history.pids["a/0"]) in history.step()


def test_nobody_is_spawned_while_stopping() -> None:
    """Not for a crash, nor for a slot whose time has come."""
    history = History(config(a=2))
    history.step()
    history.pool.stop(history.now)
    history.ready("a/0")
    history.dies("a/0")
    assert spawned(history.step(100)) == []


def test_a_stop_without_children_is_finished() -> None:
    """A host that cannot fork can still be stopped."""
    history = History(config(a=1))
    history.pool.stop(history.now)
    assert history.step() == []
    assert history.pool.finished


def test_there_is_always_a_next_look() -> None:
    """As long as somebody lives, or somebody is to be started, the pool asks to be woken."""
    history = History(config(a=1))
    history.settle_in()
    assert history.deadline() is not None
    history.pool.stop(history.now)
    history.step()
    assert history.deadline() is not None


def test_a_queue_may_be_called_monitor() -> None:
    """Its slot and its fate are not those of the monitor."""
    history = History(config(monitor=1))
    history.settle_in()
    assert set(history.pool.slots) == {MONITOR, "monitor/0"}
    history.pool.reload(config(monitor=1))
    assert Spawn("monitor/0", hold=True) in history.step()


# --- time limits, paused queues, recycling, crash loops --------------------------------------------------------------


def limited(**settings: Any) -> History:
    """A pool of one worker with a time limit of 10 s, killed 5 s later; ready."""
    history = History(config(a={"time_limit": 10.0, "kill_after": 5.0, **settings}))
    history.settle_in()
    return history


def test_a_worker_over_the_hard_limit_of_its_task_is_killed_once() -> None:
    """And its death is one, however it was told to stop meanwhile."""
    history = limited()
    pid = history.pids["a/0"]
    history.pool.observed(pid, ready=True, tick=history.now, busy=True, deadline=history.now + 15)
    assert history.deadline() == 15
    assert history.step(14.9) == []
    assert history.step(0.1) == [Kill(pid, "hard time limit")]
    assert history.step(1) == []
    assert history.dies("a/0") is Ending.DIED


def test_a_deadline_counts_only_while_the_handler_runs() -> None:
    """While the message is settled nobody is killed over it."""
    history = limited()
    pid = history.pids["a/0"]
    history.pool.observed(pid, ready=True, tick=history.now + 99, busy=False, deadline=history.now + 15)
    assert history.step(20) == []


def test_the_master_looks_again_before_any_task_can_be_over_its_limit() -> None:
    """It does not learn of a task's start."""
    assert limited().deadline() == 15


def test_what_is_known_of_a_task_is_never_old_when_its_worker_would_be_killed_for_it() -> None:
    """The rows are read at the very turn: the task may have ended in time."""
    history = limited()
    pid = history.pids["a/0"]
    history.pool.observed(pid, ready=True, tick=history.now, busy=True, deadline=history.now + 15)
    assert history.pool.observable(history.now + 14.9) == []
    assert pid in [child.pid for child in history.pool.observable(history.now + 15)]


def test_in_a_large_fleet_a_turn_reads_only_those_that_come() -> None:
    """There is a turn for each: the rest is looked at every half minute, and all of them in a stop."""
    history = History(config(a=200, b=1))
    history.settle_in()
    history.step(30)
    assert history.pool.observable(history.now + 1) == []
    history.dies("a/7")
    history.step(1)
    assert [child.slot for child in history.pool.observable(history.now)] == ["a/7"]
    assert len(history.pool.observable(history.now + 30)) == 202  # the monitor is one
    history.pool.stop(history.now)
    assert len(history.pool.observable(history.now)) == 202


def test_a_hard_limit_holds_in_a_drain_as_well() -> None:
    """And is no end in order."""
    history = limited()
    pid = history.pids["a/0"]
    history.pool.observed(pid, ready=True, tick=history.now, busy=True, deadline=history.now + 15)
    history.pool.stop(history.now)
    history.step()
    assert Kill(pid, "hard time limit") in history.step(15)
    assert history.dies("a/0") is Ending.DIED


def test_a_paused_queue_drains_until_a_reload() -> None:
    """The others go on; it is news once."""
    history = History(config(a=2, b=1))
    history.settle_in()
    assert history.pool.pause("a", generation=1)
    assert not history.pool.pause("a", generation=1)
    assert history.step() == [Drain(history.pids["a/0"]), Drain(history.pids["a/1"])]
    for slot in ("a/0", "a/1"):
        assert history.dies(slot, 0) is Ending.STOPPED
    assert history.step(100) == []
    assert history.pool.paused() == ["a"]
    history.pool.reload(history.pool.config)
    assert "a/0" in spawned(history.step())


def test_what_a_worker_of_before_a_reload_found_pauses_nothing() -> None:
    """The reload was for that. It may be seen after the reload: SIGHUP comes before SIGCHLD."""
    history = History(config(a={"handler": None, "command": ("x",)}, b=1))
    history.settle_in()
    history.pool.reload(history.pool.config)
    assert not history.pool.pause("a", generation=1)
    history.dies("a/0", os.EX_CONFIG)
    assert history.pool.paused() == []
    assert history.pool.pause("a", generation=2)


def test_a_command_that_is_gone_when_a_worker_is_replaced_pauses_its_queue() -> None:
    """It was there when the queue was first served; a handler in Python is tried again with backoff instead."""
    history = History(config(a={"handler": None, "command": ("x",)}, b=1))
    history.settle_in()
    for slot in ("a/0", "b/0"):
        history.dies(slot)
    history.step(60)
    for slot in ("a/0", "b/0"):
        assert history.dies(slot, os.EX_CONFIG) is Ending.MISCONFIGURED
    assert history.pool.paused() == ["a"]
    assert spawned(history.step(60)) == ["b/0"]


def test_a_recycled_worker_is_replaced_at_once_however_often() -> None:
    """It did nothing wrong."""
    history = History(config(a=1))
    history.settle_in()
    for _ in range(20):
        ending = history.pool.exited(history.pids["a/0"], 0, 1, history.now, recycled=True)
        assert ending is Ending.RECYCLED
        assert spawned(history.step()) == ["a/0"]
        history.ready("a/0")
    assert history.pool.fates["a"].crash_loop(history.now) is None


def test_a_slot_whose_workers_settle_one_message_and_die_of_the_next_backs_off() -> None:
    """Up to a second: else a broken handler forks twenty times a second; but not longer, as there is progress."""
    history = History(config(a=1))
    history.settle_in()
    for _ in range(4):
        history.dies("a/0", settled=1)
        assert spawned(history.step(1)) == ["a/0"]
        history.ready("a/0")
    for _ in range(30):
        history.dies("a/0", settled=1)
        assert spawned(history.step()) == []
        assert spawned(history.step(1)) == ["a/0"]
        history.ready("a/0")


@pytest.mark.parametrize(
    ("messages", "likely"),
    [(["m"] * 5, "poison"), (list("abcde"), "the code is broken"), ([None] * 5, "they die without a message")],
)
def test_a_crash_loop_is_five_deaths_within_a_minute(messages: list[str | None], likely: str) -> None:
    """In all slots of a queue together, and forgotten after a minute."""
    history = History(config(a=5))
    history.settle_in()
    for number, message in enumerate(messages):
        assert history.pool.fates["a"].crash_loop(history.now) is None
        history.now += 2
        history.pool.exited(history.pids[f"a/{number}"], None, 0, history.now, message=message)
    loop = history.pool.fates["a"].crash_loop(history.now)
    assert loop is not None
    assert (loop.deaths, loop.seconds) == (5, 8.0)
    assert loop.likely.startswith(likely)
    assert history.pool.fates["a"].crash_loop(history.now + 60) is None


def calls_of_a_turn(workers: int) -> int:
    """Function calls of one turn of the master's loop, the first of a reload: all rows are looked at, then the plan."""
    history = History(config(a=workers))
    history.settle_in()
    history.pool.reload(history.pool.config)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        history.ready(*history.pids)
        history.step()
    finally:
        sys.setprofile(None)
    return calls


def test_a_turn_costs_as_much_as_there_are_children_and_no_more() -> None:
    """When all were looked through for each, the start of 512 workers took the master 15 s."""
    assert calls_of_a_turn(200) < 5 * calls_of_a_turn(50)
