"""Section `broker` of the configuration: where the broker is and how long to believe in a silent one.

Runs in: every process.
"""

from dataclasses import dataclass
from pathlib import Path

from workqueued.plain import as_plain
from workqueued.readers import duration, one_or_more, parsed, path_beside_file
from workqueued.schema import key
from workqueued.urls import BrokerUrl

#: With `heartbeat: 0`, what is otherwise derived from the heartbeat is derived from this, seconds.
_WITHOUT_HEARTBEAT = 30.0
_DEFAULT_URL = BrokerUrl("127.0.0.1", 5672, "guest", "guest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Section `broker`: where the broker is and how long to believe in a silent one."""

    url: tuple[BrokerUrl, ...] = key(
        one_or_more(
            parsed(BrokerUrl.parse, "a URL such as amqp://user:password@host:5672/%2F", "^amqps?://"),
            "one URL or a list of them",
        ),
        "one URL, or a list that is tried in order",
        default=(_DEFAULT_URL,),
    )
    password_file: Path | None = key(
        path_beside_file("the path of a file that holds the password"),
        "file whose first line is the password; it takes the place of the one in the URL",
        default=None,
    )
    heartbeat: float = key(
        duration("2s", "10m", "0", 0.0),
        "AMQP heartbeat; a hung peer is noticed after 1 to 2 times (heartbeat + 5 s); 0: none, TCP keepalive instead",
        show=lambda seconds: as_plain(seconds) if seconds else 0,
        default=30.0,
    )
    connect_timeout: float = key(
        duration("100ms", "5m"), "how long one attempt to connect to one host may take", default=10.0
    )

    @property
    def rhythm(self) -> float:
        """Seconds on which everything is based that has to do with how long a connection may be left alone."""
        return self.heartbeat or _WITHOUT_HEARTBEAT
