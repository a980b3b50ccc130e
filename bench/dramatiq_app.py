"""Dramatiq's side: its own middleware, one thread a process; the environment sets its prefetch to one message."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench import bench_handlers

handle = getattr(bench_handlers, os.environ["WQ_BENCH_HANDLER"])


class Broker(RabbitmqBroker):  # type: ignore[misc]  # no types where Dramatiq is not installed
    """Declares queues of the type that is measured."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        kind = {"x-queue-type": "quorum"} if os.environ["WQ_BENCH_TYPE"] == "quorum" else {}
        return {**super()._build_queue_arguments(queue_name), **kind}


dramatiq.set_broker(Broker(url=os.environ["WQ_BENCH_URL"]))


def run(argument: str) -> None:
    """A task."""
    handle(argument)


task = dramatiq.actor(run, actor_name="task", queue_name=os.environ["WQ_BENCH_QUEUE"])
