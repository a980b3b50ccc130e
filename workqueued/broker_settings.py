"""Section `broker` of the configuration: where the broker is and how long to believe in a silent one.

Runs in: every process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workqueued.plain import as_plain
from workqueued.readers import boolean, duration, one_or_more, parsed, path_beside_file
from workqueued.schema import key, read_section
from workqueued.urls import BrokerUrl, ManagementUrl

#: With `heartbeat: 0`, what is otherwise derived from the heartbeat is derived from this, seconds.
_WITHOUT_HEARTBEAT = 30.0
_DEFAULT_URL = BrokerUrl("127.0.0.1", 5672, "guest", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Section `broker.tls`: how an amqps broker is known, and how we are known to it."""

    verify: bool = key(
        boolean(), "false: take any broker for ours, whatever its certificate says; for trying only", default=True
    )
    ca: Path | None = key(
        path_beside_file("the path of a file"),
        "file of the certificates (PEM) that may have signed the broker's; without it the system's",
        default=None,
    )
    cert: Path | None = key(
        path_beside_file("the path of a file"), "file of our own certificate (PEM), if the broker asks", default=None
    )
    login: bool = key(
        boolean(),
        "true: log in by our certificate instead of a password, where the broker has rabbitmq_auth_mechanism_ssl",
        default=False,
    )
    # The last one, as from here on `key` is this field.
    key: Path | None = key(
        path_beside_file("the path of a file"),
        "file of its private key (PEM, no passphrase), if that is not in the file of the certificate",
        default=None,
    )

    @staticmethod
    def contradictions(given: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with keys that are right one by one, as (key, text)."""
        if "cert" not in given and ("key" in given or given.get("login")):
            return [("cert", "missing; expected the file of our certificate, to which key and login belong")]
        return []


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
    tls: Tls | None = key(read_section(Tls), "certificates of amqps and https addresses", default=None)
    heartbeat: float = key(
        duration("2s", "10m", "0", 0.0),
        "AMQP heartbeat; a hung peer is noticed after 1 to 2 times (heartbeat + 5 s); 0: none, TCP keepalive instead",
        show=lambda seconds: as_plain(seconds) if seconds else 0,
        default=30.0,
    )
    connect_timeout: float = key(
        duration("100ms", "5m"), "how long one attempt to connect to one host may take", default=10.0
    )
    management_url: ManagementUrl | None = key(
        parsed(ManagementUrl.parse, "a URL such as http://127.0.0.1:15672"),
        "RabbitMQ's management API, which tells the monitor what AMQP does not: unacknowledged messages, rates",
        show=lambda url: None if url is None else str(url),
        default=None,
    )
    hot_path: bool = key(
        boolean(),
        "false: every frame goes through pika's own loop, not only what the short way does not know",
        default=True,
    )

    @staticmethod
    def contradictions(given: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with keys that are right one by one, as (key, text); None stands for a value that is wrong."""
        urls = given.get("url", (_DEFAULT_URL,))
        if "tls" not in given or urls is None:
            return []
        if "management_url" in given:
            urls = (*urls, given["management_url"])
        if urls and not any(url is None or url.tls for url in urls):
            return [("tls", "is for amqps addresses, and broker.url has none; expected amqps://host there")]
        return []

    @property
    def unverified(self) -> bool:
        """Whether anybody who can get in between passes for the broker, in spite of TLS."""
        over_tls = any(url.tls for url in self.url) or (self.management_url is not None and self.management_url.tls)
        return self.tls is not None and not self.tls.verify and over_tls

    @property
    def rhythm(self) -> float:
        """Seconds on which everything is based that has to do with how long a connection may be left alone."""
        return self.heartbeat or _WITHOUT_HEARTBEAT
