"""Doubts: what is dangerous, or sure to surprise, about a configuration without a mistake.

Runs in: master, at the start and at each reload. `workqueued --check` prints the same.
"""

from collections.abc import Iterator

from workqueued import credentials, stop_times
from workqueued.broker_settings import Broker
from workqueued.config import Config
from workqueued.logs import log
from workqueued.queue_settings import doubt_of_ack_timeout

#: What is wrong, and what to do about it.
Doubt = tuple[str, str]


def of_tls(broker: Broker) -> Iterator[Doubt]:
    """Whether anybody may pass for the broker."""
    if broker.unverified:
        yield (
            "broker.tls.verify is false: whoever can get in between passes for the broker, and reads the password",
            "give the certificate of whoever signed the broker's as broker.tls.ca, and take verify: false out",
        )


def of_stop_times(config: Config) -> list[Doubt]:
    """Whether supervisord or systemd kills what is still draining."""
    return stop_times.contradictions(stop_times.look(config.file, config.drain_timeout + config.drain_margin))


def tell(config: Config) -> None:
    """Log them all."""
    for queue, settings in config.queues.items():
        doubt = doubt_of_ack_timeout(queue, settings)
        if doubt is not None:
            log.warning("time_limit.doubted", queue=queue, error=doubt[0], hint=doubt[1])
    for error, hint in credentials.exposed(config.file, config.broker):
        log.warning("config.exposed", error=error, hint=hint)
    for error, hint in of_tls(config.broker):
        log.warning("tls.unverified", error=error, hint=hint)
    for error, hint in of_stop_times(config):
        log.warning("stop_times.contradicted", error=error, hint=hint)
