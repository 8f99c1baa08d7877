# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a service's front, as the role host writes them to the description of the service.

Every value ends in HAProxy's configuration, so each is checked here for what it may consist of: no value can end its
line or be read as something else.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import MobiusError
from ...manifest import SERVICE_NAME

HTTP, TCP, WORKER = KINDS = ("http", "tcp", "worker")  # what a service speaks
SLOT_COUNT = 4
PORT_MAX = 65535
WEIGHT_MAX = 256  # HAProxy's
SOCKET_PATH_MAX_CHARS = 90  # a Unix address has 107; HAProxy binds a longer, temporary name first
PAUSE_MAX_SECONDS = 3600
TIMEOUT_MAX_SECONDS = 24 * 3600
BODY_MAX_BYTES = 1 << 50
HEADERS_MIN_BYTES, HEADERS_MAX_BYTES = 1024, 1 << 20
RATE_MAX = 1_000_000
RATE_SECONDS = 10
ADDRESSES_MAX = 200
EXTRA_LINE_MAX_CHARS = 1000
PAGE_MAX_BYTES = 8000  # it has to fit into HAProxy's buffer, with a head
MAINTENANCE_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Maintenance</title>
<h1>Maintenance</h1>
<p>This service is being maintained. Please try again in a few minutes.</p>
</html>
"""

_FILE_PATH = re.compile(r"/[A-Za-z0-9._/@+-]*")
_URL_PATH = re.compile(r"/[A-Za-z0-9._~/%+-]*")
_SECTION = re.compile(
    r"(global|defaults|frontend|backend|listen|peers|resolvers|userlist|mailers|cache|program|ring|http-errors|"
    r"fcgi-app|log-forward|crt-list|crt-store)\b"
)


@dataclass(frozen=True)
class FrontTimeouts:
    """HAProxy's time-outs in seconds.

    Attributes:
        connect: for an instance to accept a connection.
        client: for a client to send or accept more of a request or a response.
        server: for an instance to begin its response, and to send more of it.
        request: for a client to send the whole head of a request.
        keep_alive: for a client's next request on its connection.
        tunnel: for either side of a WebSocket to send anything.
    """

    connect: float = 5.0
    client: float = 60.0
    server: float = 60.0
    request: float = 10.0
    keep_alive: float = 60.0
    tunnel: float = 3600.0

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> FrontTimeouts:
        """Raises `MobiusError` `invalid_input` for an unknown name or a value that is no time."""
        names = {item.name for item in dataclasses.fields(cls)}
        _require_known(value, names, "time-out")
        return cls(**{name: _seconds(f"The time-out {name}", value[name]) for name in value})


@dataclass(frozen=True)
class ExtraLines:
    """Lines of a user's own in HAProxy's configuration, by section."""

    globally: tuple[str, ...] = ()
    frontend: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> ExtraLines:
        """From `{global, frontend, backend}`, each a list of lines.

        Raises:
            MobiusError: `invalid_input` for another section, or a line that is none or begins a section.
        """
        _require_known(value, {"global", "frontend", "backend"}, "section of extra lines")
        sections = {name: _lines(name, value.get(name, [])) for name in ("global", "frontend", "backend")}
        return cls(sections["global"], sections["frontend"], sections["backend"])

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each section that has extra lines."""
        sections = (("global", self.globally), ("frontend", self.frontend), ("backend", self.backend))
        return tuple(
            f"HAProxy's section {name} has {len(lines)} extra line{'s' if len(lines) > 1 else ''} of your own: MOBIUS "
            "checks that HAProxy accepts them, not what they do to a release."
            for name, lines in sections
            if lines
        )


@dataclass(frozen=True)
class FrontSettings:
    """One service's front.

    Attributes:
        kind: what the service speaks. Of `tcp`, connections are passed on as they are: an instance is healthy when it
            accepts one, and what is of HTTP alone cannot be set. A `worker` has no front, and nothing here counts.
        address, port: the public address; the socket unit listens on it, and HAProxy inherits the socket.
        first_port: the slots' addresses are 127.0.0.1 with this port and the SLOT_COUNT - 1 after it.
        internal_port: of the listener on 127.0.0.1 that has each slot's health and metrics, and HAProxy's.
        health_path, metrics_path: of the service.
        max_connections: of clients, at the same time.
        pause: how long, in seconds, a request waits at the longest while no instance may serve.
        body_limit: the longest body of a request, in bytes; 0 for no limit. With a limit, a body without a length is
            refused.
        header_limit: the longest head of a request, in bytes; 0 for HAProxy's limit of about 15,000.
        rate_limit: the requests that a client's address may send in RATE_SECONDS; 0 for no limit.
        allowed: the addresses and networks whose clients are served; empty for all.
        redirect_port: of the public address, where clients are sent to https; 0 for none. Needs a certificate; HAProxy
            inherits its socket after that of `port`.
        certificate: a PEM file with the certificate, its chain and its key; None for plain HTTP.
        http2: whether HTTP/2 is offered to clients that use TLS.
        reuse_connections: whether a connection to an instance serves several requests. That is quicker, and loses a
            request that arrives while the instance closes an idle connection: only for one that keeps them for longer
            than `timeouts.keep_alive`.
        affinity: how a client stays with its release while a canary has a share of the requests: "none", by a "cookie"
            of the front, or by its "source" address.
        access_log: where each request of a client is logged: "none", systemd's "journal", or a "file".
        access_log_bytes, access_log_files: the size at which that file is rotated, and how many older ones are kept.
        maintenance_page: HTML that clients get with 503 during a maintenance.
        accept_proxy: whether clients' connections begin with the PROXY protocol, as those of a load balancer do; others
            are closed then.
        send_proxy: whether instances receive the PROXY protocol, version 2.
    """

    service: str
    run_dir: Path
    port: int
    first_port: int
    internal_port: int
    health_path: str
    kind: str = HTTP
    address: str = "0.0.0.0"  # noqa: S104 - the public address
    metrics_path: str = "/metrics"
    max_connections: int = 4000
    pause: float = 60.0
    body_limit: int = 0
    header_limit: int = 0
    rate_limit: int = 0
    allowed: tuple[str, ...] = ()
    redirect_port: int = 0
    certificate: Path | None = None
    http2: bool = True
    reuse_connections: bool = False
    accept_proxy: bool = False
    send_proxy: bool = False
    affinity: str = "none"
    access_log: str = "none"
    access_log_bytes: int = 50_000_000
    access_log_files: int = 5
    maintenance_page: str = MAINTENANCE_PAGE
    timeouts: FrontTimeouts = field(default_factory=FrontTimeouts)
    extra: ExtraLines = field(default_factory=ExtraLines)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> FrontSettings:
        """From the host's description: the service's `service`, `run_dir` and `health_path`, and the front's settings.

        Raises:
            MobiusError: `invalid_input` for a missing, unknown or invalid setting.
        """
        fields = dataclasses.fields(cls)
        _require_known(value, {item.name for item in fields}, "setting of the front")
        wrong = [name for name, default in _OF_HTTP_ALONE.items() if value.get(name, default) != default]
        if value.get("affinity") == "cookie":
            wrong.append("affinity by a cookie")
        if value.get("kind") == TCP and wrong:
            raise MobiusError("invalid_input", f"The front's {wrong[0]} is of HTTP, and the service speaks TCP.")
        needed = ("service", "run_dir", "port", "first_port", "internal_port", "health_path")
        if missing := [name for name in needed if name not in value]:
            raise MobiusError("invalid_input", f"The front lacks its setting {missing[0]}.")
        parsed = {name: _PARSERS[name](f"The front's {name}", value[name]) for name in value}
        settings = cls(**parsed)
        settings._require_distinct_ports()
        if settings.redirect_port and settings.certificate is None:
            raise MobiusError("invalid_input", "The front has a redirect_port and no certificate to redirect to.")
        if len(str(settings.probes_socket)) > SOCKET_PATH_MAX_CHARS:
            raise MobiusError("invalid_input", f"The front's run_dir is too long for a socket: {settings.run_dir}.")
        return settings

    def _require_distinct_ports(self) -> None:
        if self.first_port + SLOT_COUNT - 1 > PORT_MAX:
            raise MobiusError(
                "invalid_input", f"The front's first_port leaves no {SLOT_COUNT} ports: {self.first_port}."
            )
        names = dict.fromkeys(self.slot_ports, "the port of a slot")
        for name in ("port", "internal_port", "redirect_port"):
            port = getattr(self, name)
            if port in names:
                raise MobiusError("invalid_input", f"The front's {name} {port} is {names[port]} too: choose another.")
            names |= {port: f"its {name}"} if port else {}

    @property
    def slot_ports(self) -> tuple[int, ...]:
        """The ports of the slots, on 127.0.0.1, by number (the first slot has number 1)."""
        return tuple(range(self.first_port, self.first_port + SLOT_COUNT))

    @property
    def slots_path(self) -> Path:
        """Which release holds which slot; in memory, so that a reboot forgets it."""
        return self.run_dir / "slots.json"

    @property
    def configuration_path(self) -> Path:
        """HAProxy's configuration; in memory, rendered before each start."""
        return self.run_dir / "front.cfg"

    @property
    def releases_path(self) -> Path:
        """The slots' releases as HAProxy reads them when it starts, to name them in its log."""
        return self.run_dir / "front-releases.map"

    @property
    def maintenance_map_path(self) -> Path:
        """Whether clients get the page of maintenance, as HAProxy reads it when it starts."""
        return self.run_dir / "front-maintenance.map"

    @property
    def maintenance_page_path(self) -> Path:
        """The page of maintenance, as HAProxy reads it when it starts."""
        return self.run_dir / "front-maintenance.html"

    @property
    def sockets_dir(self) -> Path:
        """The folder in which HAProxy makes its sockets: it must be able to write there."""
        return self.run_dir / "front"

    @property
    def runtime_socket(self) -> Path:
        """Where HAProxy receives commands."""
        return self.sockets_dir / "runtime.sock"

    @property
    def probes_socket(self) -> Path:
        """Where probes enter."""
        return self.sockets_dir / "probes.sock"

    @property
    def traffic_socket(self) -> Path:
        """Where HAProxy sends its log: the datagram socket of the traffic receiver."""
        return self.run_dir / "traffic.sock"

    def warnings(self) -> tuple[str, ...]:
        """What a user should know about these settings, a sentence each."""
        return self.extra.warnings()


_OF_HTTP_ALONE: Mapping[str, Any] = {
    **dict.fromkeys(("body_limit", "header_limit", "rate_limit", "redirect_port"), 0),
    "reuse_connections": False,
    "access_log": "none",
}


def _kind(what: str, value: Any) -> str:
    if value not in KINDS:
        raise MobiusError("invalid_input", f"{what} is {value!r}, not one of {', '.join(KINDS)}.")
    return str(value)


def _require_known(value: Any, names: set[str], what: str) -> None:
    if not isinstance(value, Mapping):
        raise MobiusError("invalid_input", f"A {what} must be given by its name, not as {value!r}.")
    if unknown := sorted(str(name) for name in value if name not in names):
        raise MobiusError("invalid_input", f"There is no {what} {unknown[0]!r}.")


def _whole_number(low: int, high: int) -> Any:
    def parse(what: str, value: Any) -> int:
        # not isinstance: to Python, true is a number
        if type(value) is not int or not low <= value <= high:
            raise MobiusError("invalid_input", f"{what} is {value!r}, not a whole number from {low} to {high}.")
        return value

    return parse


def _zero_or(parse: Any) -> Any:
    return lambda what, value: 0 if type(value) is int and value == 0 else parse(what, value)


def _seconds(what: str, value: Any, high: float = TIMEOUT_MAX_SECONDS) -> float:
    if type(value) not in (int, float) or not 0.001 <= value <= high:
        raise MobiusError("invalid_input", f"{what} is {value!r}, not a time of up to {high:g} seconds.")
    return float(value)


def _pause(what: str, value: Any) -> float:
    return _seconds(what, value, PAUSE_MAX_SECONDS)


def _flag(what: str, value: Any) -> bool:
    if type(value) is not bool:
        raise MobiusError("invalid_input", f"{what} is {value!r}, neither true nor false.")
    return value


def _one_of(*words: str) -> Any:
    def parse(what: str, value: Any) -> str:
        if value not in words:
            raise MobiusError("invalid_input", f"{what} is {value!r}, which is none of {', '.join(words)}.")
        return str(value)

    return parse


def _file_path(what: str, value: Any) -> Path:
    if not isinstance(value, str | Path) or not _FILE_PATH.fullmatch(str(value)):
        raise MobiusError(
            "invalid_input", f"{what} is {value!r}, not an absolute path of letters, digits and any of . _ / @ + -."
        )
    return Path(value)


def _optional_file_path(what: str, value: Any) -> Path | None:
    return None if value in (None, "") else _file_path(what, value)


def _url_path(what: str, value: Any) -> str:
    if not isinstance(value, str) or not _URL_PATH.fullmatch(value):
        raise MobiusError(
            "invalid_input", f"{what} is {value!r}, not a path of letters, digits and any of . _ ~ / % + -."
        )
    return value


def _service(what: str, value: Any) -> str:
    if not isinstance(value, str) or not SERVICE_NAME.fullmatch(value):
        raise MobiusError("invalid_input", f"{what} is {value!r}, which is not a valid service name.")
    return value


def _address(what: str, value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise MobiusError("invalid_input", f"{what} is {value!r}, not an IP address.") from None


def _networks(what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > ADDRESSES_MAX:
        raise MobiusError("invalid_input", f"{what} is not a list of up to {ADDRESSES_MAX} addresses.")
    try:
        return tuple(str(ipaddress.ip_network(one if isinstance(one, str) else "")) for one in value)
    except ValueError as error:
        raise MobiusError("invalid_input", f"{what} has an entry that is no address or network: {error}.") from None


def _page(what: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise MobiusError("invalid_input", f"{what} is no text.")
    if not value.strip():
        return MAINTENANCE_PAGE
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise MobiusError("invalid_input", f"{what} has what is not Unicode.") from None
    if size > PAGE_MAX_BYTES:
        raise MobiusError("invalid_input", f"{what} has {size} bytes; {PAGE_MAX_BYTES} is the limit.")
    return value


def _lines(section: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise MobiusError("invalid_input", f"The extra lines of the section {section} are not a list.")
    for line in value:
        problem = None
        if not isinstance(line, str) or not line.strip() or not line.isprintable():
            problem = "is no line of text"
        elif len(line) > EXTRA_LINE_MAX_CHARS:
            problem = f"is longer than {EXTRA_LINE_MAX_CHARS} characters"
        elif _SECTION.match(line.strip()):
            problem = "begins a section"
        elif line.strip().startswith("."):
            problem = "is a condition on other lines"
        if problem:
            raise MobiusError("invalid_input", f"An extra line of the section {section} {problem}: {str(line)[:80]!r}.")
    return tuple(line.strip() for line in value)


_PARSERS: Mapping[str, Any] = {
    "service": _service,
    "kind": _kind,
    "run_dir": _file_path,
    "port": _whole_number(1, PORT_MAX),
    "first_port": _whole_number(1024, PORT_MAX),
    "internal_port": _whole_number(1024, PORT_MAX),
    "health_path": _url_path,
    "address": _address,
    "metrics_path": _url_path,
    "max_connections": _whole_number(1, 1_000_000),
    "pause": _pause,
    "body_limit": _whole_number(0, BODY_MAX_BYTES),
    "header_limit": _zero_or(_whole_number(HEADERS_MIN_BYTES, HEADERS_MAX_BYTES)),
    "rate_limit": _whole_number(0, RATE_MAX),
    "allowed": _networks,
    "redirect_port": _whole_number(0, PORT_MAX),
    "certificate": _optional_file_path,
    "http2": _flag,
    "reuse_connections": _flag,
    "accept_proxy": _flag,
    "send_proxy": _flag,
    "affinity": _one_of("none", "cookie", "source"),
    "access_log": _one_of("none", "journal", "file"),
    "access_log_bytes": _whole_number(1_000_000, 1 << 40),
    "access_log_files": _whole_number(1, 1000),
    "maintenance_page": _page,
    "timeouts": lambda _, value: FrontTimeouts.parse(value),
    "extra": lambda _, value: ExtraLines.parse(value),
}
