"""Facts: a status as plain data, for programs.

Runs in: `wq-status`, monitor. Pure. The keys are an interface: docs/status.md tells what each means.
"""

import time
from collections.abc import Mapping
from typing import Any

from workqueued.status import QueueStatus, Status, WorkerStatus


def facts(status: Status, now: float, *, changed: bool | None = None) -> Mapping[str, Any]:
    """All of it.

    Args:
        status: what to tell.
        now: seconds since the epoch.
        changed: whether the configuration on the disk is another one by now.
    """
    return {
        "time": _utc(now),
        "state": status.condition.value,
        "reasons": list(status.reasons),
        "since": None if status.since is None else _utc(status.since),
        "uptime_s": _rounded(status.uptime_s),
        "version": status.version,
        "config": status.config,
        "config_sha256": status.config_hash,
        "config_changed": changed,
        "generation": status.generation,
        "master_pid": status.master,
        "ready": status.ready,
        "delayed_total": status.delayed,
        "monitor": None if status.monitor is None else _child_facts(status.monitor),
        "queues": [_queue_facts(queue) for queue in status.queues],
        "workers": [_worker_facts(worker) for worker in status.workers],
        "deaths": [
            {"time": _utc(one.at), "slot": one.slot, "pid": one.pid, "cause": one.cause, "message_id": one.message_id}
            for one in status.deaths
        ],
    }


def _queue_facts(queue: QueueStatus) -> Mapping[str, Any]:
    return {
        "queue": queue.name,
        "state": queue.state,
        "paused": queue.paused,
        "workers_wanted": queue.wanted,
        "workers_serving": queue.serving,
        "in_flight": queue.in_work,
        "ready": queue.ready,
        "unacked": queue.unacked,
        "consumers": queue.consumers,
        "in_per_s": queue.flow.in_rate,
        "out_per_s": queue.flow.out_rate,
        "eta_s": _rounded(queue.eta_s),
        "oldest_s": _rounded(queue.oldest_s),
        "dead": queue.dead,
        "uncounted": queue.uncounted,
        "alerts": list(queue.alerts),
        "sample_age_s": _rounded(queue.age_s),
        "done_total": queue.done,
        "retried_total": queue.retried,
        "dead_total": queue.dead_lettered,
        "handed_back_total": queue.handed_back,
        "lost_total": queue.lost,
        "died_total": sum(queue.died.values()),
    }


def _child_facts(child: WorkerStatus) -> dict[str, Any]:
    return {
        "slot": child.slot,
        "state": child.state,
        "pid": child.pid,
        "generation": child.generation,
        "uptime_s": _rounded(child.uptime_s),
        "tick_age_s": _rounded(child.tick_s),
        "rss_bytes": child.rss_bytes,
    }


def _worker_facts(worker: WorkerStatus) -> Mapping[str, Any]:
    return _child_facts(worker) | {
        "queue": worker.queue,
        "message_id": worker.message_id,
        "busy_s": _rounded(worker.busy_s),
        "done": worker.done,
        "retried": worker.retried,
        "dead": worker.dead,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}Z"
