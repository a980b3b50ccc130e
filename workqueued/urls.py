"""BrokerUrl: where a broker is, and who we are there."""

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """One broker address, `amqp://user:password@host:port/vhost`; the password never shows in its repr."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str = "/"

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
        if url.scheme == "amqps":
            raise ValueError("TLS is not supported yet, so the scheme must be amqp")
        if url.scheme != "amqp":
            raise ValueError("the scheme must be amqp")
        if not url.hostname:
            raise ValueError("the host is missing")
        if url.query or url.fragment:
            raise ValueError("nothing may follow the vhost; options such as heartbeat are keys of broker:")
        vhost = url.path.removeprefix("/")
        if "/" in vhost:
            raise ValueError("a / in the vhost is written %2F")
        return cls(
            host=url.hostname,
            port=port or 5672,
            user=unquote(url.username) if url.username is not None else "guest",
            password=unquote(url.password) if url.password is not None else "guest",
            vhost=unquote(vhost) or "/",
        )

    def __str__(self) -> str:
        """The URL for eyes and logs: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amqp://{quote(self.user, safe='')}:***@{host}:{self.port}/{quote(self.vhost, safe='')}"
