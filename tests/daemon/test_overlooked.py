"""A worker that believes it consumes, and is given nothing, is found, and consumes again."""

import json
import struct
from collections.abc import Callable
from typing import Any

from harness import Daemon, Vhost, eventually, run_cli
from relay import Relay

Daemons = Callable[..., Daemon]

#: A frame: type, channel, size; then so many bytes, and one that ends it.
_FRAME = struct.Struct(">BHI")
_METHOD = 1
_DELIVER = struct.pack(">HH", 60, 60)
_CANCEL = struct.pack(">HH", 60, 30)


class Swallower:
    """What the broker says on one connection, which may lose one method; all else, heartbeats too, goes on."""

    def __init__(self, method: bytes = _DELIVER) -> None:
        self._method = method
        self.hungry = False
        self.swallowed = 0
        self._rest = b""
        self._losing = False

    def __call__(self, data: bytes) -> bytes:
        """Pass on the whole frames."""
        self._rest += data
        passed = b""
        while len(self._rest) >= _FRAME.size:
            kind, _, size = _FRAME.unpack_from(self._rest)
            end = _FRAME.size + size + 1
            if len(self._rest) < end:
                break
            frame, self._rest = self._rest[:end], self._rest[end:]
            passed += b"" if self._loses(kind, frame) else frame
        return passed

    def _loses(self, kind: int, frame: bytes) -> bool:
        if kind == _METHOD:  # header and body follow their method; heartbeats come on a channel of their own, type 8
            self._losing = self.hungry and frame[_FRAME.size :].startswith(self._method)
            self.swallowed += self._losing
        return self._losing and kind in (1, 2, 3)


def queue(workers: int, **settings: Any) -> dict[str, Any]:
    """A task_queue whose handler writes a ledger."""
    return {"task_queue": {"handler": "ledgers:work", "workers": workers, **settings}}


def test_workers_whose_deliveries_are_swallowed_are_found_and_consume_anew(daemon: Daemons, vhost: Vhost) -> None:
    """Their heartbeats flow, their channels are open, and messages are ready: they give the connection up."""
    swallowers: list[Swallower] = []

    def watch() -> Swallower:
        swallowers.append(Swallower())
        return swallowers[-1]

    with Relay(vhost.port, from_broker=watch) as relay:
        url = vhost.url.replace(str(vhost.port), str(relay.port))
        with daemon(queue(2), broker={"url": url, "heartbeat": "2s"}) as running:
            running.consuming(2)
            vhost.publish("task_queue", "0 before")
            running.await_event("delivery.settled")
            for swallower in swallowers:
                swallower.hungry = True
            # They take a second: if one worker is found first, messages must still wait for the other to be.
            vhost.publish("task_queue", *(f"1 message{number}" for number in range(5)))
            running.await_event("consumer.overlooked", within=30)
            running.await_event("delivery.settled", 6, outcome="done")
            assert sum(swallower.swallowed for swallower in swallowers) == 2
            assert sorted(running.done()) == ["0 before", *(f"1 message{number}" for number in range(5))]
            assert running.events("consumer.overlooked")[0]["ready"] == 3
            assert not running.events("worker.died")
            assert not running.events("broker.unreachable")
    assert vhost.count("task_queue") == 0


def test_a_standby_consumer_is_not_disturbed_for_long(daemon: Daemons, vhost: Vhost) -> None:
    """At a queue with a single active consumer it is right to be idle: it connects anew ever more rarely."""
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True, arguments=arguments)
    with daemon(queue(2, declare=False), broker={"url": vhost.url, "heartbeat": "2s"}) as running:
        running.consuming(2)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}", "0 next")
        first = running.await_event("consumer.overlooked", within=30)
        second = running.await_event("consumer.overlooked", 2, within=30)
        assert first["pid"] == second["pid"]
        assert second["idle_s"] >= 2 * 5
        gate.touch()
        eventually(lambda: len(running.done()) == 2, within=30)


def test_a_worker_that_the_broker_does_not_count_is_told_and_consumes_anew(daemon: Daemons, vhost: Vhost) -> None:
    """The queue was deleted and made again, and the word of that never came: nothing is ready, and all looks alive."""
    swallowers: list[Swallower] = []

    def watch() -> Swallower:
        swallowers.append(Swallower(_CANCEL))
        return swallowers[-1]

    with Relay(vhost.port, from_broker=watch) as relay:
        url = vhost.url.replace(str(vhost.port), str(relay.port))
        with daemon(queue(2), broker={"url": url, "heartbeat": "20s"}) as running:
            running.consuming(2)
            running.await_event("queue.depth", consumers=2)
            for swallower in swallowers:
                swallower.hungry = True
            with vhost.channel() as channel:
                channel.queue_delete("task_queue")
                # Made again at once, RabbitMQ 3.10 counts the old consumers as the new queue's.
                running.await_event("queue.depth", reason="the broker has no such queue")
                channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
            running.await_event("queue.depth", consumers=0)
            reason = "task_queue: the broker does not count 2 workers among its consumers"

            def told() -> bool:
                seen = json.loads(run_cli("status", "--config", str(running.file), "--json").stdout)
                return seen["reasons"] == [reason] and (seen["state"], seen["ready"]) == ("degraded", False)

            eventually(told, within=30)
            overlooked = running.await_event("consumer.overlooked")
            assert (overlooked["uncounted"], overlooked["ready"]) == (2, 0)
            running.await_event("consumer.overlooked", 2)
            running.consuming(4)
            vhost.publish("task_queue", "0 after")
            running.await_event("delivery.settled")
            seen = run_cli("status", "--config", str(running.file), "--json")
            eventually(lambda: run_cli("status", "--config", str(running.file)).returncode == 0, what=seen.stdout)
            assert sum(swallower.swallowed for swallower in swallowers) == 2
