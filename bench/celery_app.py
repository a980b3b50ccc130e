"""Celery's side: prefork, acks late, one message at a time, no results, no events."""

import os

from celery import Celery
from kombu import Exchange, Queue

from bench import bench_handlers

QUEUE = os.environ["WQ_BENCH_QUEUE"]
arguments = {"x-queue-type": "quorum"} if os.environ["WQ_BENCH_TYPE"] == "quorum" else None
app = Celery("bench", broker=os.environ["WQ_BENCH_URL"].replace("%2F", "/"))
app.conf.update(
    task_queues=[Queue(QUEUE, Exchange(QUEUE, "direct", durable=True), routing_key=QUEUE, queue_arguments=arguments)],
    task_default_queue=QUEUE,
    task_default_exchange=QUEUE,
    task_default_routing_key=QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
handle = getattr(bench_handlers, os.environ["WQ_BENCH_HANDLER"])


def run(argument: str) -> None:
    """A task."""
    handle(argument)


task = app.task(name="bench.task")(run)
