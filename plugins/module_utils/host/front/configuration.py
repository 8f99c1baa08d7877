# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HAProxy's configuration: rendered from the settings, the slots and what each of them may do.

It is rendered before each start, so that a proxy that was killed comes back as it was, and after each switch. HAProxy
is never reloaded for a switch: `runtime` gives it the same states. The public listening socket is inherited from
systemd as descriptor 3, so its queue outlives the proxy, and that of the redirect to https as descriptor 4.

- `public` and `service`: the clients' requests
- `probes`: a Unix socket; a probe names its slot by the header X-Mobius-Slot. Clients cannot reach it, so a
  request is a probe by where it enters, not by a header that anybody can send.
- `internal`: `/slots/<number>/health`, `/slots/<number>/metrics`, and HAProxy's own `/metrics`, on 127.0.0.1
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ... import durable
from .settings import RATE_SECONDS, SLOT_COUNT, TCP, WEIGHT_MAX, FrontSettings
from .slots import HOST, Slot, server_name

HAPROXY_USER = "haproxy"  # of Debian's package
LISTENER, REDIRECT_LISTENER = "fd@3", "fd@4"  # systemd's descriptors
LISTENER_COUNT = 2
PUBLIC, REDIRECT, PROBES, INTERNAL, SERVICE = "public", "redirect", "probes", "internal", "service"
HOLD_SERVER = "hold"
HOLD_PORT = 1  # nobody but root can listen there, so a connection is refused
NO_RELEASE = "none"
LOG_LINE_MAX_BYTES, ACCESS_LINE_MAX_BYTES = 1024, 4096
PATH_MAX_BYTES = 500  # of a path in a log; as JSON it is six times as long at the longest
RETRY_AFTER_SECONDS = 5
MAINTENANCE_RETRY_AFTER_SECONDS = 60
CLIENTS, ON, OFF = "clients", "on", "off"  # the key of the map of maintenance, and its values
HTTPS_PORT = 443
SLOT_HEADER = "X-Mobius-Slot"
CLIENT_HEADER, CLIENT_COOKIE, CLIENT_MAX_BYTES = "X-Mobius-Client", "mobius_client", 64
BUFFER_BYTES, BUFFER_RESERVE_BYTES = 16384, 2048  # HAProxy's; what it may add to a head
RATE_CLIENTS_MAX = 100_000  # whose requests are counted; some 10 MB

READY, DRAIN, MAINT = "ready", "drain", "maint"
STATES = (READY, DRAIN, MAINT)


@dataclass(frozen=True)
class ServerState:
    """What a server may do: `ready` (new requests, by its `weight`), `drain` (ends those that it has) or `maint`."""

    state: str
    weight: int = 100

    def __post_init__(self) -> None:
        if self.state not in STATES or not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"{self} is no state of a server")


def render(
    settings: FrontSettings, slots: Sequence[Slot], states: Mapping[int, ServerState], *, is_paused: bool = False
) -> str:
    """HAProxy's configuration.

    Args:
        states: by the number of a slot; a slot without one is in `maint`.
        is_paused: whether requests wait, up to `settings.pause`, for a slot that is ready.
    """
    by_number = {slot.number: slot for slot in slots}
    if unknown := set(states) - set(by_number):
        raise ValueError(f"There is no slot {sorted(unknown)}.")
    if settings.kind == TCP:
        sections = _tcp_sections(settings, by_number, states, is_paused)
        return _join_sections(settings, sections)
    sections = [
        _global(settings),
        _defaults(settings),
        _public(settings),
        *([_redirect(settings)] if settings.redirect_port else []),
        _probes(settings),
        _internal(settings),
        _service(settings, by_number, states, is_paused),
        *(_slot(settings, slot) for slot in by_number.values()),
    ]
    return _join_sections(settings, sections)


def _join_sections(settings: FrontSettings, sections: Sequence[list[str]]) -> str:
    lines = [f"# The front of {settings.service}, rendered by mobius-host: what is changed here is lost."]
    for section in sections:
        head, *body = section
        lines += ["", head, *(f"    {line}" for line in body)]
    return "\n".join(lines) + "\n"


def render_releases(slots: Sequence[Slot]) -> str:
    """The map of HAProxy from a slot's server to the release that holds it, which its log names."""
    return "".join(f"{slot.server} {slot.release or NO_RELEASE}\n" for slot in slots)


def write(
    settings: FrontSettings,
    slots: Sequence[Slot],
    states: Mapping[int, ServerState],
    *,
    is_paused: bool = False,
    is_maintenance: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write the configuration and what HAProxy reads with it, each file in one step and durably.

    Args:
        is_maintenance: whether clients get the page of maintenance.
        owner: `(uid, gid)`; the group is the one that HAProxy runs as, and nobody else may read them then.

    Raises:
        OSError: the file that it concerns is unchanged.
    """
    mode = 0o644 if owner is None else 0o640
    files = {
        settings.releases_path: render_releases(slots),
        settings.maintenance_map_path: f"{CLIENTS} {ON if is_maintenance else OFF}\n",
        settings.maintenance_page_path: settings.maintenance_page,
        settings.configuration_path: render(settings, slots, states, is_paused=is_paused),
    }
    for path, text in files.items():
        durable.write_bytes(path, text.encode(), mode=mode, owner=owner)


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _literal(text: str) -> str:
    """A text in an argument that HAProxy takes as a log format."""
    return text.replace("%", "%%")


def _global(settings: FrontSettings) -> list[str]:
    return [
        "global",
        f"maxconn {settings.max_connections}",
        # a worker that a reload has replaced ends with its last connection, or then
        f"hard-stop-after {_milliseconds(settings.timeouts.tunnel)}",
        f"stats socket unix@{settings.runtime_socket} mode 600 level admin",
        "stats timeout 10s",
        f"log {settings.traffic_socket} len {_line_max_bytes(settings)} format raw local0 info",
        f"tune.bufsize {max(BUFFER_BYTES, settings.header_limit + BUFFER_RESERVE_BYTES)}",
        "ssl-default-bind-options ssl-min-ver TLSv1.2",
        *settings.extra.globally,
    ]


def _defaults(settings: FrontSettings) -> list[str]:
    timeouts = settings.timeouts
    reuse = ("option http-keep-alive", "http-reuse safe")
    no_reuse = ("option http-server-close", "http-reuse never")
    return [
        "defaults",
        "mode http",
        "option dontlognull",
        *(reuse if settings.reuse_connections else no_reuse),
        f"timeout connect {_milliseconds(timeouts.connect)}",
        f"timeout client {_milliseconds(timeouts.client)}",
        f"timeout server {_milliseconds(timeouts.server)}",
        f"timeout http-request {_milliseconds(timeouts.request)}",
        f"timeout http-keep-alive {_milliseconds(timeouts.keep_alive)}",
        f"timeout tunnel {_milliseconds(timeouts.tunnel)}",
        f"timeout queue {_milliseconds(settings.pause)}",
        'http-error status 503 content-type text/plain string "No instance can serve this request now.\\n" '
        f"hdr Retry-After {RETRY_AFTER_SECONDS}",
    ]


def _public(settings: FrontSettings) -> list[str]:
    tls = ""
    if settings.certificate is not None:
        tls = f" ssl crt {settings.certificate} alpn {'h2,http/1.1' if settings.http2 else 'http/1.1'}"
    return [
        f"frontend {PUBLIC}",
        f"bind {LISTENER}{_accept_proxy(settings)}{tls}",
        f"maxconn {settings.max_connections}",
        "log global",
        _log_format(settings, PUBLIC),
        *_logged_variables(settings),
        *_allowed(settings),
        *_maintenance(settings),
        *_rate_limit(settings),
        *_header_limit(settings),
        *_body_limit(settings),
        *_forwarded(_client(settings)),
        *_affinity(settings),
        *settings.extra.frontend,
        f"default_backend {SERVICE}",
    ]


def _probes(settings: FrontSettings) -> list[str]:
    return [
        f"frontend {PROBES}",
        f"bind unix@{settings.probes_socket} mode 600",
        "log global",
        _log_format(settings, PROBES),
        f"http-request deny deny_status 400 unless {{ req.hdr({SLOT_HEADER}) -m reg ^[1-{SLOT_COUNT}]$ }}",
        f"http-request set-var(txn.slot) req.hdr({SLOT_HEADER})",
        f"http-request del-header {SLOT_HEADER}",
        *_forwarded(HOST),
        "use_backend slot%[var(txn.slot)]",
    ]


def _internal(settings: FrontSettings) -> list[str]:
    return [
        f"frontend {INTERNAL}",
        f"bind {HOST}:{settings.internal_port}",
        "http-request use-service prometheus-exporter if { path /metrics }",
        f"http-request deny deny_status 404 unless {{ path_reg ^/slots/[1-{SLOT_COUNT}]/(health|metrics)$ }}",
        "http-request set-var(txn.slot) path,field(3,/)",
        "http-request set-var(txn.page) path,field(4,/)",
        f"http-request set-path {_literal(settings.health_path)} if {{ var(txn.page) -m str health }}",
        f"http-request set-path {_literal(settings.metrics_path)} if {{ var(txn.page) -m str metrics }}",
        *_forwarded(HOST),
        "use_backend slot%[var(txn.slot)]",
    ]


def _service(
    settings: FrontSettings, slots: Mapping[int, Slot], states: Mapping[int, ServerState], is_paused: bool
) -> list[str]:
    return [
        f"backend {SERVICE}",
        *_BALANCE[settings.affinity],
        # A refused connection was no request yet: it is tried again after a second at the latest, on any ready server.
        "option redispatch 1",
        f"retries {math.ceil(settings.pause)}",
        *settings.extra.backend,
        *(
            f"server {slot.server} {slot.address}{_send_proxy(settings)} {_initial(states.get(number))}"
            for number, slot in slots.items()
        ),
        f"server {HOLD_SERVER} {HOST}:{HOLD_PORT} weight 1{'' if is_paused else ' disabled'}",
    ]


def _tcp_sections(
    settings: FrontSettings, slots: Mapping[int, Slot], states: Mapping[int, ServerState], is_paused: bool
) -> list[list[str]]:
    """The sections for a service that speaks TCP; without probes and pages, which are of HTTP."""
    timeouts = settings.timeouts
    defaults = [
        "defaults",
        "mode tcp",
        "option dontlognull",
        f"timeout connect {_milliseconds(timeouts.connect)}",
        # either side may be silent for as long, as in a tunnel
        f"timeout client {_milliseconds(timeouts.tunnel)}",
        f"timeout server {_milliseconds(timeouts.tunnel)}",
        f"timeout queue {_milliseconds(settings.pause)}",
    ]
    tls = "" if settings.certificate is None else f" ssl crt {settings.certificate}"
    public = [
        f"frontend {PUBLIC}",
        f"bind {LISTENER}{_accept_proxy(settings)}{tls}",
        f"maxconn {settings.max_connections}",
        "log global",
        _tcp_log_format(settings),
        *([f"tcp-request connection reject unless {{ src {' '.join(settings.allowed)} }}"] if settings.allowed else []),
        *settings.extra.frontend,
        f"default_backend {SERVICE}",
    ]
    internal = [
        f"frontend {INTERNAL}",
        "mode http",
        f"timeout http-request {_milliseconds(timeouts.request)}",
        f"bind {HOST}:{settings.internal_port}",
        "http-request use-service prometheus-exporter if { path /metrics }",
        "http-request return status 404",
    ]
    return [_global(settings), defaults, public, internal, _service(settings, slots, states, is_paused)]


# Not HAProxy's persistence: a server that drains goes on to get the requests of those who have its cookie. With a
# consistent hash, weights and states count for all, and one server that is ready alone gets every client.
_BALANCE = {
    "none": ("balance roundrobin",),
    "cookie": (f"balance hdr({CLIENT_HEADER})", "hash-type consistent"),
    "source": ("balance source", "hash-type consistent"),
}


def _affinity(settings: FrontSettings) -> list[str]:
    """What a client is known by while two releases serve: a cookie of the front, in a header that is balanced by.

    A client without the cookie gets it with its first response, from the release that its value leads to.
    """
    if settings.affinity != "cookie":
        return []
    are_two = f"{{ nbsrv({SERVICE}) gt 1 }}"
    return [
        f"http-request del-header {CLIENT_HEADER}",
        f"http-request set-var(txn.client) req.cook({CLIENT_COOKIE}),bytes(0,{CLIENT_MAX_BYTES}) if {are_two}",
        f"http-request set-var(txn.new_client) uuid() if {are_two} !{{ var(txn.client) -m len ge 1 }}",
        "http-request set-var(txn.client) var(txn.new_client) if { var(txn.new_client) -m found }",
        f"http-request set-header {CLIENT_HEADER} %[var(txn.client)] if {{ var(txn.client) -m found }}",
        f'http-response add-header Set-Cookie "{CLIENT_COOKIE}=%[var(txn.new_client)]; Path=/; HttpOnly; SameSite=Lax" '
        "if { var(txn.new_client) -m found }",
    ]


def _initial(state: ServerState | None) -> str:
    """The state of a server after a start. A server that drains has no request then; without weight it gets none."""
    if state is None or state.state == MAINT:
        return "weight 100 disabled"
    return f"weight {state.weight if state.state == READY else 0}"


def _slot(settings: FrontSettings, slot: Slot) -> list[str]:
    return [
        f"backend {server_name(slot.number)}",
        "retries 0",
        f"server {slot.server} {slot.address}{_send_proxy(settings)}",
    ]


def _accept_proxy(settings: FrontSettings) -> str:
    return " accept-proxy" if settings.accept_proxy else ""


def _send_proxy(settings: FrontSettings) -> str:
    return " send-proxy-v2" if settings.send_proxy else ""


def _redirect(settings: FrontSettings) -> list[str]:
    port = "" if settings.port == HTTPS_PORT else f":{settings.port}"
    return [
        # a socket unit that was opened before it had this port hands over one descriptor, until it is opened again
        f'.if streq("$LISTEN_FDS",{LISTENER_COUNT})',
        f"frontend {REDIRECT}",
        f"bind {REDIRECT_LISTENER}{_accept_proxy(settings)}",
        "http-request deny deny_status 400 unless { req.hdr(host) -m found }",
        f"http-request redirect code 308 location https://%[req.hdr(host),regsub(:[0-9]+$,)]{port}%[pathq]",
        ".endif",
    ]


def _allowed(settings: FrontSettings) -> list[str]:
    if not settings.allowed:
        return []
    return [f"http-request deny deny_status 403 unless {{ src {' '.join(settings.allowed)} }}"]


def _maintenance(settings: FrontSettings) -> list[str]:
    """The page of maintenance for all but the health of the service, when the map says so."""
    return [
        f'http-request return status 503 content-type "text/html; charset=utf-8" '
        f"file {settings.maintenance_page_path} hdr Retry-After {MAINTENANCE_RETRY_AFTER_SECONDS} "
        f"hdr Cache-Control no-store if {{ str({CLIENTS}),map({settings.maintenance_map_path},{OFF}) -m str {ON} }} "
        f"!{{ path -m str {settings.health_path} }}"
    ]


def _rate_limit(settings: FrontSettings) -> list[str]:
    if not settings.rate_limit:
        return []
    return [
        f"stick-table type ipv6 size {RATE_CLIENTS_MAX} expire {RATE_SECONDS}s store http_req_rate({RATE_SECONDS}s)",
        "http-request track-sc0 src",
        'http-request return status 429 content-type text/plain string "Too many requests.\\n" '
        f"hdr Retry-After {RATE_SECONDS} if {{ sc_http_req_rate(0) gt {settings.rate_limit} }}",
    ]


def _header_limit(settings: FrontSettings) -> list[str]:
    if not settings.header_limit:
        return []
    return [f"http-request return status 431 if {{ req.hdrs,length gt {settings.header_limit} }}"]


def _body_limit(settings: FrontSettings) -> list[str]:
    if not settings.body_limit:
        return []
    return [
        # without a length, HAProxy cannot know how long a body will be
        "http-request return status 411 if { req.hdr(transfer-encoding) -m found }",
        "http-request return status 411 if { req.ver 2.0 } { method POST PUT PATCH } "
        "!{ req.hdr(content-length) -m found }",
        f"http-request deny deny_status 413 if {{ req.body_size gt {settings.body_limit} }}",
    ]


def _client(settings: FrontSettings) -> str:
    """The client's address; where it may be one of IPv6, without the prefix that marks an IPv4 address."""
    is_ipv6 = ":" in settings.address or settings.accept_proxy
    return "%[src,regsub(^::ffff:,)]" if is_ipv6 else "%[src]"


def _forwarded(client: str) -> list[str]:
    """The client's address as the instance gets it. What a client claims is removed, in any spelling: a server that
    turns header names into variables takes X_Forwarded_For for the same header."""
    return [
        "http-request del-header ^(x[-_]forwarded[-_].*|x[-_]real[-_]ip|forwarded)$ -m reg",
        f"http-request set-header X-Forwarded-For {client}",
        "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
    ]


def _is_access_logged(settings: FrontSettings) -> bool:
    return settings.access_log != "none"


def _line_max_bytes(settings: FrontSettings) -> int:
    return ACCESS_LINE_MAX_BYTES if _is_access_logged(settings) else LOG_LINE_MAX_BYTES


def _logged_variables(settings: FrontSettings) -> list[str]:
    """What the log needs of a request, which is gone when its line is written."""
    if not _is_access_logged(settings):
        return []
    return [
        "http-request set-var(txn.method) method,bytes(0,32)",
        f"http-request set-var(txn.path) path,bytes(0,{PATH_MAX_BYTES})",
    ]


def _log_format(settings: FrontSettings, source: str) -> str:
    """One JSON object a request: times in milliseconds, -1 for none.

    It has nothing that a client can choose, unless there is an access log: that has the method and the path, as JSON.
    """
    release = f"%[srv_name,map({settings.releases_path},{NO_RELEASE})]"
    access = ""
    if source == PUBLIC and _is_access_logged(settings):
        access = (
            ',"at":%Ts.%ms,"client":"%ci","method":"%[var(txn.method),json(utf8ps)]",'
            '"path":"%[var(txn.path),json(utf8ps)]","bytes":%B'
        )
    return (
        f'log-format \'{{"source":"{source}","server":"%s","release":"{release}","status":%ST,'
        f'"queue":%Tw,"connect":%Tc,"response":%Tr,"data":%Td,"end":"%ts","retries":"%rc"{access}}}\''
    )


def _tcp_log_format(settings: FrontSettings) -> str:
    """As `_log_format`, of a connection, when it has ended: there is no status, and no time of a response."""
    release = f"%[srv_name,map({settings.releases_path},{NO_RELEASE})]"
    return (
        f'log-format \'{{"source":"{PUBLIC}","server":"%s","release":"{release}","status":0,'
        '"queue":%Tw,"connect":%Tc,"response":-1,"data":%Tt,"end":"%ts","retries":"%rc"}\''
    )
