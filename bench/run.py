"""Measure the program, its peers and the limits, side by side: `make bench`.

    python -m bench.run                     all of it, at most 15 minutes; writes docs/benchmarks.md and its picture
    python -m bench.run --quick --docs DIR  two minutes, to try the bench itself; its figures say nothing
    python -m bench.run --render            the report once more, from the figures of the last run

Everything happens on one private broker on loopback. What is measured, and how, stands in the report's head.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import consume, fairness, footprint, machine, publish, report
from bench.results import Results
from bench.rig import Rig
from bench.systems import BENCH
from workqueued.node import Node

#: From the start to the last measurement, seconds.
_LONGEST = 14.5 * 60
_FIGURES = BENCH.parent / ".run" / "bench.json"
_PARTS = ("publish", "footprint", "fairness", "consume")


def main() -> int:
    """Measure and write."""
    options = _options()
    if options.render:
        report.write(Results.load(options.figures), options.docs)
        return 0
    began = time.monotonic()
    results = Results()
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        rig = Rig(Path(folder), node)
        results.about = _describe(rig)
        for part in options.only or _PARTS:
            print(f"bench: {part} ({time.monotonic() - began:.0f} s)", flush=True)
            _measure(part, rig, results, options, began + _LONGEST)
    results.about["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes" + (", --quick" if options.quick else "")
    results.save(options.figures)
    report.write(results, options.docs)
    print(f"bench: {results.about['took']}; {options.docs / 'benchmarks.md'}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run")
    parser.add_argument("--quick", action="store_true", help="small rounds, to try the bench itself")
    parser.add_argument("--only", action="append", choices=_PARTS, help="a part alone; may be repeated")
    parser.add_argument("--docs", type=Path, default=BENCH.parent / "docs", help="where the report goes")
    parser.add_argument("--figures", type=Path, default=_FIGURES, help="where the figures are kept")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the report from the figures")
    return parser.parse_args()


def _measure(part: str, rig: Rig, results: Results, options: argparse.Namespace, deadline: float) -> None:
    quick = options.quick
    if part == "publish":
        results.figures |= publish.measure(rig, 10_000 if quick else 100_000, 1 if quick else 3)
    elif part == "footprint":
        results.figures |= footprint.measure_start(rig, 1 if quick else 5)
        results.figures |= footprint.measure_replacement(rig)
        results.figures |= footprint.measure_memory(rig, 8 if quick else 64)
        results.figures |= footprint.measure_idle(rig, 3 if quick else 20)
    elif part == "fairness":
        results.figures |= fairness.measure(rig, 1 if quick else 3)
    else:
        for sample in consume.measure(rig, consume.QUICK_CELLS if quick else consume.CELLS, deadline):
            results.samples.append(sample)
            turn = f"round {sample['round'] + 1}.{sample['window'] + 1}"
            place = f"{turn}, {sample['kind']}, {sample['size']} B, {sample['workers']} workers"
            cost = f"{sample['client_us']:4.0f} + {sample['broker_us']:4.0f} µs"
            print(f"  {place:44} {sample['system']:32} {sample['rate']:7.0f}/s  {cost}", flush=True)


def _describe(rig: Rig) -> dict[str, str]:
    """When, where, and of which versions."""
    packages = ("workqueued", "pika", "celery", "kombu", "dramatiq")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    c = subprocess.run([rig.scratch / "consumer"], check=True, capture_output=True, text=True).stdout.strip()
    erlang = rig.node.ctl("eval", "erlang:system_info(otp_release).").strip().strip('"')
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=BENCH, check=False, capture_output=True, text=True  # noqa: S607
    ).stdout.strip()
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": f"`make bench`, commit {commit or 'unknown'}",
        "machine": machine.describe(),
        "versions": f"Python {sys.version.split()[0]}, RabbitMQ {rig.node.ctl('version').strip()} (Erlang {erlang}), "
        f"librabbitmq {c}, " + ", ".join(versions),
    }


if __name__ == "__main__":
    sys.exit(main())
