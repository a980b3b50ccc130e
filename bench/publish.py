"""Publishing: `wq-send` with many lines against a C program, and with one message against the shortest pika script."""

import subprocess
import sys
import time
from pathlib import Path

import yaml

from bench.rig import Rig

_WQ_SEND = Path(sys.executable).with_name("wq-send")
_QUEUE = "publish"
_SCRIPT = """
import pika, sys
c = pika.BlockingConnection(pika.URLParameters(sys.argv[1])); ch = c.channel(); ch.confirm_delivery()
ch.basic_publish("", sys.argv[2], b"hello", pika.BasicProperties(delivery_mode=2), mandatory=True); c.close()
"""


def measure(rig: Rig, lines: int, rounds: int) -> dict[str, list[float]]:
    """Messages/s of a bulk, seconds of one message, by name; wall time of whole commands."""
    script, config, text = rig.scratch / "shortest.py", rig.scratch / "publish.yaml", rig.scratch / "lines"
    script.write_text(_SCRIPT)
    text.write_bytes((b"x" * 100 + b"\n") * lines)
    queues = {_QUEUE: {"handler": "nobody:handles", "type": "classic"}}
    config.write_text(yaml.safe_dump({"broker": {"url": rig.node.url}, "queues": queues}))
    rig.channel.queue_declare(_QUEUE, durable=True, arguments={"x-queue-type": "classic"})
    send = [str(_WQ_SEND), "--config", str(config), "--quiet"]
    names = ("bulk", "bulk C", "bulk C, messages as wq-send's", "hello", "hello pika")
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        c = (rig.scratch / "publisher", rig.node.port, _QUEUE, lines, 100, 1000)
        found["bulk C"].append(lines / _time(rig, *c))
        found["bulk C, messages as wq-send's"].append(lines / _time(rig, *c, "dressed"))
        found["bulk"].append(lines / _time(rig, *send, "--lines", "--file", text))
    for _ in range(5 * rounds):
        found["hello pika"].append(_time(rig, sys.executable, script, rig.node.url, _QUEUE))
        found["hello"].append(_time(rig, *send, "hello"))
    return found


def _time(rig: Rig, *words: object) -> float:
    rig.channel.queue_purge(_QUEUE)
    began = time.monotonic()
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
