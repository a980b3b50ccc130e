"""Metrics: what a scrape reads off a scoreboard, and that the manual, the dashboard and the rules know their names."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from workqueued import timings
from workqueued.metrics import registry
from workqueued.scoreboard import Cell, Head, Kind, QueueCell, Row, Scoreboard, State
from workqueued.status import Alert
from workqueued.survey import Kernel, steady

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "etc/grafana/workqueued.json"
RULES = ROOT / "etc/prometheus/rules.yml"
RULE_TESTS = ROOT / "tests/unit/rules_test.yml"
#: What Prometheus itself says of a target.
_PROMETHEUS_OWN = {"up"}


class World:
    """A queue with two workers, one of which works, and no monitor's sample yet."""

    def __init__(self, directory: Path) -> None:
        self.board = Scoreboard.create(directory)
        self.board[Head.GENERATION] = 1
        self.board.head.name, self.board.head.message_id, self.board.head.note = "/etc/w.yaml", "1.2.3", "0123456789ab"
        self.queue = self.board.claim(Kind.QUEUE, "mail")
        self.queue.words[QueueCell.WANTED] = 3
        self.workers = [self.worker(f"mail/{number}", 10 + number) for number in range(2)]
        self.monitor = self.board.claim(Kind.MONITOR, "monitor")
        self.monitor.words[Cell.PID], self.monitor.words[Cell.STATE] = 2, State.IDLE
        self.registry: CollectorRegistry = registry(
            self.board, Kernel(lambda _: True, lambda _: False, lambda _: 1000)
        )

    def worker(self, slot: str, pid: int) -> Row:
        """An idle one."""
        row = self.board.claim(Kind.WORKER, slot)
        row.words[Cell.PID], row.words[Cell.PROVEN], row.words[Cell.STATE] = pid, 1, State.IDLE
        return row

    def scrape(self) -> dict[str, float]:
        """Every sample of a scrape, as `name{label=value,…}`."""
        found = {}
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def families(self) -> dict[str, str]:
        """Names and types, as Prometheus stores them."""
        found = {}
        self.monitor.words[Cell.DELAYED] = 1  # else one is left out
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            found[family.name + ("_total" if family.type == "counter" else "")] = family.type
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A board as above."""
    return World(tmp_path)


def test_what_is_unknown_is_left_out(world: World) -> None:
    """A 0 would be a lie: nobody has asked the broker yet."""
    found = world.scrape()
    assert not [name for name in found if name.startswith("workqueued_queue_messages_ready")]
    assert not [name for name in found if name.startswith(("workqueued_queue_eta", "workqueued_delayed"))]
    assert found["workqueued_queue_workers_wanted{queue=mail}"] == 2


def test_a_sample_is_told(world: World) -> None:
    """Counts, rates and what follows."""
    words = world.queue.words
    words[QueueCell.READY], words[QueueCell.UNACKED], words[QueueCell.DEAD] = 41, 3, 1
    words[QueueCell.IN_RATE], words[QueueCell.OUT_RATE] = 1501, 3501
    world.monitor.words[Cell.DELAYED] = 8
    found = world.scrape()
    assert found["workqueued_queue_messages_ready{queue=mail}"] == 40
    assert found["workqueued_queue_messages_unacked{queue=mail}"] == 2
    assert found["workqueued_queue_messages_dead{queue=mail}"] == 0
    assert found["workqueued_queue_messages_in_per_second{queue=mail}"] == 1.5
    assert found["workqueued_queue_eta_seconds{queue=mail}"] == 20
    assert found["workqueued_delayed_messages"] == 7


def test_workers_are_counted_by_state(world: World) -> None:
    """Every state is there, so that a graph has no gaps."""
    world.workers[1].words[Cell.STATE] = State.BUSY
    found = world.scrape()
    assert found["workqueued_queue_workers{queue=mail,state=idle}"] == 1
    assert found["workqueued_queue_workers{queue=mail,state=busy}"] == 1
    assert found["workqueued_queue_workers{queue=mail,state=dead}"] == 0
    assert found["workqueued_queue_resident_memory_bytes{queue=mail}"] == 2000


def test_counters_go_on_over_the_deaths_of_workers(world: World) -> None:
    """What is past and what the living count."""
    world.queue.words[QueueCell.PAST_DONE], world.queue.words[QueueCell.DIED_OF_LIMIT] = 100, 2
    world.workers[0].words[Cell.DONE], world.workers[0].words[Cell.LOST] = 5, 1
    timings.note(world.workers[0], 300, 20_000_000)
    timings.note(world.queue, 300, 20_000_000)
    found = world.scrape()
    assert found["workqueued_settled_total{outcome=done,queue=mail}"] == 105
    assert found["workqueued_settled_total{outcome=lost,queue=mail}"] == 1
    assert found["workqueued_worker_deaths_total{cause=time_limit,queue=mail}"] == 2
    assert found["workqueued_wait_seconds_bucket{le=0.25,queue=mail}"] == 0
    assert found["workqueued_wait_seconds_bucket{le=0.5,queue=mail}"] == 2
    assert found["workqueued_wait_seconds_count{queue=mail}"] == 2
    assert found["workqueued_wait_seconds_sum{queue=mail}"] == 0.6
    assert found["workqueued_run_seconds_bucket{le=0.025,queue=mail}"] == 2


def test_reloads_and_the_whole_are_told(world: World) -> None:
    """The first configuration is no reload."""
    world.board[Head.GENERATION], world.board[Head.RELOADS_REJECTED], world.board[Head.MONITOR_DEATHS] = 3, 1, 4
    found = world.scrape()
    assert found["workqueued_reloads_total{result=applied}"] == 2
    assert found["workqueued_reloads_total{result=rejected}"] == 1
    assert found["workqueued_monitor_deaths_total"] == 4
    assert found["workqueued_info{config=/etc/w.yaml,config_sha256=0123456789ab,version=1.2.3}"] == 1
    assert found["workqueued_state{state=degraded}"] + found["workqueued_state{state=running}"] == 1


def test_active_alerts_and_a_broker_that_is_away_are_told(world: World) -> None:
    """Both are the monitor's to know."""
    world.queue.words[QueueCell.ALERTS] = Alert.DEAD_GROWING
    world.monitor.words[Cell.STATE] = State.CONNECTING
    found = world.scrape()
    assert found["workqueued_alert_active{alert=dead_growing,queue=mail}"] == 1
    assert found["workqueued_alert_active{alert=backlog_high,queue=mail}"] == 0
    assert found["workqueued_broker_up"] == 0


def test_a_name_that_a_stranger_chose_breaks_no_line(world: World) -> None:
    """A queue may be called anything."""
    world.queue.name = name = 'a"b\\c\nd}'
    (sample,) = [
        sample
        for family in text_string_to_metric_families(generate_latest(world.registry).decode())
        for sample in family.samples
        if sample.name == "workqueued_queue_workers_wanted"
    ]
    assert sample.labels == {"queue": name}


def test_a_look_that_the_master_disturbs_is_repeated(world: World) -> None:
    """Else a worker's counts were read twice, or not at all, and a counter that falls looks like a restart."""
    looks: list[int] = []

    def take() -> int:
        looks.append(1)
        world.board[Head.MOVES] += 1 if len(looks) < 3 else 0
        return len(looks)

    assert steady(world.board, take) == 3
    world.board[Head.MOVES] |= 1  # a master that was killed in the middle
    assert steady(world.board, take) == 8


def test_master_and_workers_do_not_pay_for_the_endpoint() -> None:
    """What is imported before the fork is in every process; `wq-status` is to answer at once."""
    heavy = "{'prometheus_client', 'waitress', 'http.server', 'workqueued.management'}"
    for modules in ("workqueued.worker, workqueued.monitor, workqueued.master", "workqueued.cli.status"):
        code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert told == "[]\n", modules


# --- the manual, the dashboard, the rules ----------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """The table of docs/monitoring.md: name and type."""
    text = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| `(workqueued_\w+)(?:\{[^}]*\})?` \| (\w+) \|", text, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_the_manual_lists_every_metric(world: World) -> None:
    """With its type, and none that is not there."""
    told = {name: "info" if name == "workqueued_info" else kind for name, kind in world.families().items()}
    assert documented() == told


def test_the_manual_tells_the_labels(world: World) -> None:
    """As they are in a scrape."""
    text = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| `(\w+)\{([^}]*)\}` \|", text, re.MULTILINE)
    told = {name: set(labels.split(", ")) for name, labels in rows}
    world.queue.words[QueueCell.SAMPLED] = 1
    for cell in (QueueCell.READY, QueueCell.UNACKED, QueueCell.CONSUMERS, QueueCell.DEAD):
        world.queue.words[cell] = 1
    world.queue.words[QueueCell.IN_RATE] = world.queue.words[QueueCell.OUT_RATE] = 1
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(world.registry).decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert {name: labels for name, labels in found.items() if labels} == told


def _queries() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def _exported(world: World) -> set[str]:
    names = set(world.families())
    for name, kind in world.families().items():
        if kind == "histogram":
            names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return names


def test_the_dashboard_asks_only_for_what_there_is(world: World) -> None:
    """A panel whose metric was renamed is an empty one."""
    asked = {name for query in _queries() for name in re.findall(r"\bworkqueued_\w+", query)}
    assert len(asked) >= 15
    assert asked - _exported(world) == set()


def test_the_dashboard_can_be_imported() -> None:
    """Panels with a place, a data source that is chosen at the import, and no two alike."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert (dashboard["title"], dashboard["id"]) == ("workqueued", None)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert {target["refId"] for target in panel["targets"]} == set("ABC"[: len(panel["targets"])])
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place: dict[str, Any] = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, panel["title"]
        cells |= mine


def test_the_rules_ask_only_for_what_there_is(world: World) -> None:
    """An alert on a metric that is not there never rings."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 8
    asked = {name for rule in rules for name in re.findall(r"\b(?:workqueued_\w+|up)\b", rule["expr"])}
    assert asked - _exported(world) - _PROMETHEUS_OWN == set()
    assert all(rule["labels"]["severity"] in ("warning", "critical") for rule in rules)


def test_the_rules_are_what_prometheus_takes_and_ring_when_they_should(tmp_path: Path) -> None:
    """By its own tool: the syntax, and histories with what has to ring and what must not."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("there is no promtool here; `make provision-tests` installs it (Debian: prometheus)")
    for what in (["check", "rules", str(RULES)], ["test", "rules", str(RULE_TESTS)]):
        done = subprocess.run([promtool, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_every_rule_is_in_the_manual_and_has_a_history() -> None:
    """Somebody is woken by it, and looks for its name."""
    names = re.findall(r"^ *- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
    manual, histories = (ROOT / "docs/monitoring.md").read_text(), RULE_TESTS.read_text()
    assert [name for name in names if f"`{name}`" not in manual] == []
    assert [name for name in names if f"alertname: {name}\n" not in histories] == []
