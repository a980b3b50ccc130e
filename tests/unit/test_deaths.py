"""Deaths in words."""

import signal
from pathlib import Path
from typing import Any

import pytest

from workqueued.deaths import Circumstances, OomCounter, explain, find_counter, in_short
from workqueued.slots import CrashLoop


@pytest.mark.parametrize(
    ("code", "number", "known", "facts", "short"),
    [
        (1, None, {}, {"cause": "exited", "code": 1}, "exit code 1"),
        (
            9,
            None,
            {"busy": True},
            {"cause": "exited", "code": 9, "likely": "the handler ended the process, as os._exit(9) does"},
            "exit code 9",
        ),
        (None, 15, {}, {"cause": "killed", "signal": "SIGTERM"}, "SIGTERM"),
        (None, 9, {}, {"cause": "killed", "signal": "SIGKILL", "likely": "kill -9, or out of memory"}, "SIGKILL"),
        (None, 9, {"oom_killed": False}, {"cause": "killed", "signal": "SIGKILL", "likely": "kill -9"}, "SIGKILL"),
        (
            None,
            9,
            {"oom_killed": True},
            {"cause": "killed", "signal": "SIGKILL", "likely": "out of memory: the kernel's OOM killer"},
            "SIGKILL (out of memory)",
        ),
        (None, 9, {"hard_limit": True}, {"cause": "hard time limit", "signal": "SIGKILL"}, "the hard time limit"),
        (None, 11, {}, {"cause": "killed", "signal": "SIGSEGV", "likely": "a bug in C code"}, "SIGSEGV"),
        (
            None,
            6,
            {"memory_limited": True},
            {"cause": "killed", "signal": "SIGABRT", "likely": "a bug in C code, or limits.memory"},
            "SIGABRT",
        ),
        (None, signal.SIGRTMIN + 1, {}, {"cause": "killed", "signal": "SIG35"}, "SIG35"),
    ],
)
def test_an_end_is_told_in_words(
    code: int | None, number: int | None, known: dict[str, Any], facts: dict[str, object], short: str
) -> None:
    """What is known, and what is likely."""
    circumstances = Circumstances(**known)
    assert explain(code, number, circumstances) == facts
    assert in_short(code, number, circumstances) == short


def counter(tmp_path: Path, membership: str, files: dict[str, str]) -> Path | None:
    """The counter that is found in a tree of cgroups like this."""
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return find_counter(tmp_path / "cgroup", tmp_path / "sys")


def test_the_counter_of_cgroup_v2_is_found_and_read(tmp_path: Path) -> None:
    """memory.events."""
    name = "system.slice/workqueued.service/memory.events"
    file = counter(tmp_path, "0::/system.slice/workqueued.service\n", {name: "oom 0\noom_kill 2\n"})
    assert file == tmp_path / "sys" / name
    watch = OomCounter(file)
    assert watch.rose() is False
    file.write_text("oom 1\noom_kill 3\n")
    assert watch.rose() is True
    assert watch.rose() is False
    file.unlink()
    assert watch.rose() is None


def test_the_counter_of_cgroup_v1_is_found_also_where_the_path_is_the_host_s(tmp_path: Path) -> None:
    """In a container."""
    files = {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"}
    file = counter(tmp_path, "4:memory:/docker/abc\n3:cpuset:/\n0::/\n", files)
    assert file == tmp_path / "sys/memory/memory.oom_control"
    assert OomCounter(file).rose() is False


def test_without_a_counter_nobody_can_tell(tmp_path: Path) -> None:
    """The root cgroup has none."""
    assert counter(tmp_path, "0::/\n", {}) is None
    assert find_counter(tmp_path / "absent") is None
    (tmp_path / "odd").write_text("oom_kill\n")
    assert OomCounter(tmp_path / "odd").rose() is None


@pytest.mark.parametrize(
    ("messages", "word"), [(0, "without a message in hand"), (1, "poison"), (7, "the code is broken: 7 different")]
)
def test_a_crash_loop_says_what_is_likely(messages: int, word: str) -> None:
    """Poison, broken code, or neither."""
    assert word in CrashLoop(7, 30.0, messages).likely
