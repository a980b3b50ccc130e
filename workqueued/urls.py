"""BrokerUrl: where a broker is, and who we are there."""

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

#: The schemes and their ports (IANA).
_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """One broker address, `amqp://user:password@host:port/vhost`; the password never shows in its repr.

    Attributes:
        password: None when none was given; `secret` is what to log in with.
        tls: the scheme is amqps.
    """

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    vhost: str = "/"
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Read a URL.

        Raises:
            ValueError: it is no AMQP URL.
        """
        try:
            url = urlsplit(text)
            port = url.port
            text.encode()  # an environment variable may hold bytes that are no UTF-8
        except ValueError:
            # Not "from error", and without its text: it quotes what may be the password.
            hint = "host and port must be a name and a number; / @ : in a password are written %2F %40 %3A"
            raise ValueError(hint) from None
        if url.scheme not in _PORTS:
            raise ValueError("the scheme must be amqp, or amqps for TLS")
        if not url.hostname:
            raise ValueError("the host is missing")
        if url.query or url.fragment:
            raise ValueError("nothing may follow the vhost; options such as heartbeat are keys of broker:")
        vhost = url.path.removeprefix("/")
        if "/" in vhost:
            raise ValueError("a / in the vhost is written %2F")
        return cls(
            host=url.hostname,
            port=port or _PORTS[url.scheme],
            user=unquote(url.username) if url.username is not None else "guest",
            password=unquote(url.password) if url.password is not None else None,
            vhost=unquote(vhost) or "/",
            tls=url.scheme == "amqps",
        )

    @property
    def secret(self) -> str:
        """The password to log in with; RabbitMQ's own default where none was given."""
        return "guest" if self.password is None else self.password

    def __str__(self) -> str:
        """The URL for eyes and logs: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{quote(self.user, safe='')}:***@{host}:{self.port}/{quote(self.vhost, safe='')}"
