"""stop_times: supervisord waits longer than the daemon needs, and systemd longer than supervisord."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from workqueued.stop_times import Stop, contradictions, look, parse_span

ROOT = Path(__file__).parents[2]

Look = Callable[..., list[float]]


@pytest.fixture
def found(tmp_path: Path) -> Look:
    """The times that are found where these files are installed: supervisord.conf, and units by folder and name."""
    etc = tmp_path / "workqueued"
    etc.mkdir()

    def read(conf: str | None, units: dict[str, str] | None = None) -> list[float]:
        if conf is not None:
            (etc / "supervisord.conf").write_text(conf.replace("ETC", str(etc)))
        for name, text in (units or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.replace("ETC", str(etc)))
        stops = look(etc / "workqueued.yaml", 35.0, [tmp_path / "a", tmp_path / "b"])
        return [stop.seconds for stop in stops]

    return read


CONF = "[program:workqueued]\ncommand=/opt/bin/workqueued --config ETC/workqueued.yaml\nstopwaitsecs=40 ; longer\n"
UNIT = "[Service]\nExecStart=/opt/bin/supervisord -n -c ETC/supervisord.conf\nTimeoutStopSec=1min 30s\n"


def test_what_is_not_installed_is_not_compared(found: Look) -> None:
    """Neither supervisord nor systemd is needed."""
    assert found(None) == [35.0]
    assert found(CONF) == [35.0, 40.0]
    assert found(CONF, {"b/workqueued.service": UNIT}) == [35.0, 40.0, 90.0]


def test_the_shipped_files_nest() -> None:
    """With their places as they are installed; the default drain_timeout needs 35 s."""
    conf, unit = (ROOT / "etc/supervisord.conf").read_text(), (ROOT / "systemd/workqueued.service").read_text()
    assert "--config /etc/workqueued/workqueued.yaml" in conf
    assert "/etc/workqueued/supervisord.conf" in unit


def test_the_shipped_files_are_understood(found: Look) -> None:
    """As they are, but for the folder."""
    shipped = [(ROOT / name).read_text().replace("/etc/workqueued", "ETC")
               for name in ("etc/supervisord.conf", "systemd/workqueued.service")]
    seconds = found(shipped[0], {"a/workqueued.service": shipped[1]})
    assert len(seconds) == 3
    assert seconds == sorted(set(seconds))


@pytest.mark.parametrize(
    "command",
    [
        "/opt/bin/workqueued --config=ETC/workqueued.yaml",
        "workqueued --config ETC/workqueued.yaml",
        "'/opt/my bin/workqueued' --config ETC/workqueued.yaml",
    ],
)
def test_the_program_is_known_by_its_configuration(found: Look, command: str) -> None:
    """However it is written."""
    assert found(f"[program:other]\ncommand=cat\n[program:mine]\ncommand={command}\nstopwaitsecs=7\n") == [35.0, 7.0]


@pytest.mark.parametrize(
    "conf",
    [
        "",
        "no section",
        "[program:workqueued]\n",
        "[program:workqueued]\ncommand=workqueued\n",  # the system's own configuration
        "[program:workqueued]\ncommand=workqueued --config ETC/other.yaml\n",
        "[program:workqueued]\ncommand=workqueued 'torn\n",
        "[program:workqueued]\ncommand=cat ETC/workqueued.yaml\n",
    ],
)
def test_what_runs_something_else_is_not_ours(found: Look, conf: str) -> None:
    """Several instances of a host each have their own files."""
    assert found(conf) == [35.0]


def test_supervisords_own_default_is_ten_seconds(found: Look) -> None:
    """Which is too short for us."""
    assert found(CONF.replace("stopwaitsecs=40", "x=1")) == [35.0, 10.0]


@pytest.mark.parametrize(
    ("units", "seconds"),
    [
        ({"a/workqueued.service": UNIT, "b/workqueued.service": UNIT.replace("1min 30s", "5")}, 90.0),
        ({"b/workqueued.service": UNIT.replace("TimeoutStopSec=1min 30s", "")}, 90.0),
        ({"b/workqueued.service": UNIT.replace("1min 30s", "infinity")}, math.inf),
        ({"b/workqueued.service": UNIT.replace("1min 30s", "0")}, math.inf),
        ({"b/workqueued.service": UNIT.replace("1min 30s", "nonsense")}, 90.0),
        ({"b/workqueued.service": UNIT.replace("StopSec", "Sec").replace("1min 30s", "70")}, 70.0),
        (
            {"b/workqueued.service": UNIT, "a/workqueued.service.d/x.conf": "[Service]\nTimeoutStopSec=2m\n"},
            120.0,
        ),
        (
            {  # the same name in an earlier folder hides it; then by name
                "b/workqueued.service": UNIT,
                "b/workqueued.service.d/1.conf": "[Service]\nTimeoutStopSec=1\n",
                "a/workqueued.service.d/1.conf": "[Service]\nTimeoutStopSec=2\n",
                "b/workqueued.service.d/0.conf": "[Service]\nTimeoutStopSec=3\n",
            },
            2.0,
        ),
        ({"b/workqueued.service": UNIT, "b/workqueued.service.d/1.conf": "[Service]\nTimeoutStopSec=\n"}, 90.0),
        ({"b/workqueued.service": UNIT, "b/workqueued.service.d/1.conf": "damaged"}, 90.0),
    ],
)
def test_the_unit_and_its_drop_ins_are_read_as_systemd_does(
    found: Look, units: dict[str, str], seconds: float
) -> None:
    """The last word counts (systemd.unit(5))."""
    assert found(CONF, units) == [35.0, 40.0, seconds]


def test_a_unit_that_runs_something_else_is_not_ours(found: Look) -> None:
    """Such as the host's own, while another configuration is checked."""
    assert found(CONF, {"a/workqueued.service": UNIT.replace("ETC", "/etc/workqueued")}) == [35.0, 40.0]


def test_a_unit_may_run_the_daemon_without_supervisord(found: Look) -> None:
    """Then it is systemd that must wait for the drain."""
    unit = "[Service]\nExecStart=/opt/bin/workqueued --config ETC/workqueued.yaml\nTimeoutStopSec=20\n"
    assert found(None, {"a/workqueued.service": unit}) == [35.0, 20.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50", 50.0),
        ("2.5s", 2.5),
        ("1min 30s", 90.0),
        ("1min30s", 90.0),
        ("1h 1 m", 3660.0),
        ("500ms", 0.5),
        ("2 days", 172800.0),
        ("1M", 2629800.0),
        ("infinity", math.inf),
        ("", None),
        ("forever", None),
        ("5 parsecs", None),
        ("-5", None),
        ("1 min,", None),
    ],
)
def test_a_time_span_is_read_as_systemd_writes_it(text: str, seconds: float | None) -> None:
    """M is months, m minutes (systemd.time(7))."""
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    ("times", "wrong"),
    [
        ((35, 40, 50), []),
        ((35, 40, math.inf), []),
        ((35,), []),
        ((35, 35, 50), ["1 is 35 s, and must be longer than 0: 35 s"]),
        ((35, 40, 40), ["2 is 40 s, and must be longer than 1: 40 s"]),
        ((65, 40, 30), ["1 is 40 s, and must be longer than 0: 65 s", "2 is 30 s, and must be longer than 1: 40 s"]),
    ],
)
def test_whoever_waits_too_short_is_named(times: tuple[float, ...], wrong: list[str]) -> None:
    """With both figures."""
    stops = [Stop(str(number), seconds) for number, seconds in enumerate(times)]
    assert [error for error, _ in contradictions(stops)] == wrong
