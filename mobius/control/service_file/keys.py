# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one table of the keys of `mobius.yml`: parser, JSON schema, example and variables are all made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobius.control.run.hooks import NAMES as HOOKS

FILE_NAME = "mobius.yml"
PORT_MAX = 65535

SERVICE_PATTERN = "[a-z][a-z0-9-]{0,40}"
_ABSOLUTE = "/.*"
_WORD_PATTERN = "[A-Za-z0-9_][A-Za-z0-9._-]*"


@dataclass(frozen=True)
class ValueType:
    """What a value may be.

    Attributes:
        kind: of JSON: string, integer, number, boolean, array or object.
        pattern: that a whole text matches.
        minimum, maximum: of a number, inclusive.
        choices: the only values, if there are any.
        items: of an array; the first one that fits counts.
        keys: of an object with known keys.
        values: of an object whose keys are names of the user's own, which match `names`.
    """

    kind: str
    pattern: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    items: tuple[ValueType, ...] = ()
    keys: tuple[Key, ...] = ()
    values: tuple[ValueType, ...] = ()
    names: str = ""


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        types: what its value may be; the first one that fits counts.
        variables: of the roles, which get the value as it is. Those that need more are in `translate`.
        example: as `mobius init` writes it, commented out unless the key is required.
        default: what holds without the key, for people; empty where the description says it.
        is_required: whether a file without it is refused.
    """

    name: str
    types: tuple[ValueType, ...]
    description: str
    example: str
    variables: tuple[str, ...] = ()
    default: str = ""
    is_required: bool = False


TEXT = ValueType("string")
LINE = ValueType("string", pattern=r"[^\x00-\x1f\x7f]+")
PATH = ValueType("string", pattern=r"/[^\s\x00-\x1f\x7f]*")
BOOLEAN = ValueType("boolean")
FREE_OBJECT = ValueType("object")


def _whole(low: int, high: int) -> tuple[ValueType, ...]:
    return (ValueType("integer", minimum=low, maximum=high),)


def _choice(*words: str) -> tuple[ValueType, ...]:
    return (ValueType("string", choices=words),)


def _list(*items: ValueType) -> tuple[ValueType, ...]:
    return (ValueType("array", items=items),)


def _object(*keys: Key) -> tuple[ValueType, ...]:
    return (ValueType("object", keys=keys),)


_SECONDS = _whole(1, 3600)
_PORT = _whole(1, PORT_MAX)
_CALENDAR = (LINE,)
_SIGNALS = _list(FREE_OBJECT)
_SCALARS = (TEXT, ValueType("integer"), ValueType("number"), BOOLEAN)

_PROBE = ValueType(
    "object",
    keys=(
        Key("name", (LINE,), "Its name, for messages.", "front page", is_required=True),
        Key("path", (PATH,), "The path, with its query.", "/", is_required=True),
        Key("method", _choice("GET", "POST"), "The HTTP method.", "GET"),
        Key("content_type", (LINE,), "The type of the body.", "application/json"),
        Key("body_base64", (TEXT,), "The body, as base64.", "e30="),
        Key("body_file", (LINE,), "A file with the body, relative to mobius.yml.", "probes/order.json"),
        Key("status", _whole(100, 599), "The status of the response.", "200", default="200"),
        Key("json", (FREE_OBJECT,), "What the JSON object of the response holds.", "{status: ok}"),
    ),
)

_TIMEOUT = (ValueType("number", minimum=0.001, maximum=86400),)
_FRONT = (
    Key("first_port", _whole(1024, PORT_MAX - 3), "The first of the four ports on 127.0.0.1 that instances listen on.",
        "18000", default="the public port and 10000"),
    Key("internal_port", _whole(1024, PORT_MAX), "The port on 127.0.0.1 with each instance's health and metrics.",
        "18004", default="first_port and 4"),
    Key("pause", _SECONDS, "Seconds for which requests wait at the longest while no instance can serve.", "60",
        default="60"),
    Key("max_connections", _whole(1, 1_000_000), "Connections of clients at the same time.", "4000", default="4000"),
    Key("body_limit", _whole(0, 1 << 50), "The longest body of a request in bytes; 0 for any.", "10000000",
        default="0"),
    Key("header_limit", _whole(0, 1 << 20), "The longest head of a request in bytes; 0 for HAProxy's limit.", "0",
        default="0"),
    Key("rate_limit", _whole(0, 1_000_000), "Requests of one client's address in 10 seconds; 0 for any.", "0",
        default="0"),
    Key("allowed", _list(LINE), "Addresses and networks whose clients are served; empty for all.", "[10.0.0.0/8]"),
    Key("certificate", (ValueType("string", pattern=_ABSOLUTE),), "A PEM file on the host: certificate, chain and key.",
        "/etc/shop/tls.pem", default="plain HTTP"),
    Key("http2", (BOOLEAN,), "Whether clients that use TLS are offered HTTP/2.", "true", default="true"),
    Key("redirect_port", _whole(0, PORT_MAX), "A second public port where plain HTTP is sent to https.", "80",
        default="none"),
    Key("affinity", _choice("none", "cookie", "source"), "How a client stays with its release during a canary.",
        "cookie", default="none"),
    Key("access_log", _choice("none", "journal", "file"), "Where each request of a client is logged.", "journal",
        default="none"),
    Key("accept_proxy", (BOOLEAN,), "Whether clients' connections begin with the PROXY protocol.", "false",
        default="false"),
    Key("send_proxy", (BOOLEAN,), "Whether an instance receives the PROXY protocol.", "false", default="false"),
    Key("reuse_connections", (BOOLEAN,), "Whether a connection to an instance serves several requests.", "false",
        default="false"),
    Key("maintenance_page", (TEXT,), "The HTML page that clients get during a maintenance.", "<h1>Back soon</h1>"),
    Key("timeouts",
        _object(*(Key(name, _TIMEOUT, f"HAProxy's time-out {name}, in seconds.", "60")
                  for name in ("connect", "client", "server", "request", "keep_alive", "tunnel"))),
        "HAProxy's time-outs, in seconds.", "{server: 60}"),
)  # fmt: skip

_BACKUP = (
    Key("keep", _whole(1, 100_000), "How many backups a host keeps.", "5", ("backup_keep",), default="5"),
    Key("create", _CALENDAR, "When the host backs up by itself, as systemd's OnCalendar has it.", '"*-*-* 02:30"',
        ("backup_create_calendar",), default="never"),
    Key("verify", _CALENDAR, "When it verifies its backups.", '"*-*-* 04:00"', ("backup_verify_calendar",),
        default="never"),
    Key("drill", _CALENDAR, "When it drills a restore.", '"Sun 05:00"', ("backup_drill_calendar",), default="never"),
    Key("databases", _list(ValueType("string", pattern=r"[^/\s][^\s]*")),
        "SQLite databases below /var/lib/<service> that are verified when they are backed up.", "[data/shop.sqlite3]",
        ("backup_databases",)),
)  # fmt: skip

KEYS = (
    Key("service", (ValueType("string", pattern=SERVICE_PATTERN),),
        "The name: units, user and folders on hosts have it. Small letters, digits and hyphens.", "shop",
        ("mobius_service",), is_required=True),
    Key("kind", _choice("http", "tcp", "worker"),
        "What the service speaks: http, tcp, or a worker, which has no clients.", "http", ("host_kind",),
        default="http"),
    Key("exec", (LINE,),
        "The command of an instance. {address}, {host} and {port} are where it has to listen; a program with a\n"
        "relative path is one of the release's.", "bin/serve --listen {address}", ("host_exec",), is_required=True),
    Key("listen",
        (ValueType("integer", minimum=1, maximum=PORT_MAX),
         ValueType("string", pattern=r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]):\d{1,5}")),
        "The public port, or address and port such as 10.0.0.1:8000. HAProxy listens there.", "8000", default="8080"),
    Key("health", (PATH,), "The health path: an instance that answers it with 2xx is healthy.", "/healthz",
        ("host_health_path",), default="/health"),
    Key("health_command", _list(LINE), "The health command of a worker, a list of words.",
        "[bin/worker, --check]", ("host_health_command",), default="it is healthy while it runs"),
    Key("environment", (ValueType("object", names="[A-Z_][A-Z0-9_]*", values=_SCALARS),),
        "Environment variables. No secrets: those are in environment_file or host_secrets.",
        "{SHOP_ENV: production}", ("host_environment",)),
    Key("environment_file", (LINE,),
        "A file of secrets, with lines NAME=value; ansible-vault may have encrypted it. On hosts only root reads them.",
        "vault/shop.env", ("host_secrets_file",)),
    Key("shared", _list(ValueType("string", pattern=rf"(?!(library|index)$){_WORD_PATTERN}")),
        "Folders below /var/lib/<service> that the service may write; they outlive releases and are in backups.",
        "[uploads]"),
    Key("probes", _list(_PROBE),
        "Requests that a new release has to answer before it gets one of a client, and all through its gate.",
        "[{name: front page, path: /, status: 200}]"),
    Key("overlap", (BOOLEAN,),
        "Whether two releases may run at the same time. Without, requests wait while one is replaced by the other.",
        "true", ("host_overlap",), default="true"),
    Key("sandbox", _object(Key("jit", (BOOLEAN,), "Memory that is written and executed: node needs it.", "true")),
        "Switches that relax the sandbox.", "{jit: true}"),
    Key("start_timeout", _SECONDS, "Seconds within which an instance has to become healthy.", "60",
        ("host_start_timeout", "deploy_start_timeout"), default="60"),
    Key("drain_timeout", _whole(0, 3600), "Seconds that it has to end its requests; it is stopped then.", "30",
        ("host_drain_deadline",), default="30"),
    Key("watchdog", _whole(0, 3600), "Seconds from one notification of systemd's watchdog to the next; 0 for none.",
        "0", ("host_watchdog",), default="0"),
    Key("memory", (ValueType("string", pattern="[1-9][0-9]*[KMGT]?"),), "The memory of one instance.", "1G",
        ("host_memory_max",), default="1G"),
    Key("tasks", _whole(1, 1_000_000), "Its threads and processes.", "256", ("host_tasks_max",), default="256"),
    Key("open_files", _whole(64, 1_000_000), "Its open files, connections included.", "8192", ("host_open_files",),
        default="8192"),
    Key("canary_share", _whole(1, 50), "Percent of the requests that a new release gets at first.", "10",
        ("promote_canary_share",), default="10"),
    Key("batches", _list(ValueType("integer", minimum=1), ValueType("string", pattern="[1-9][0-9]{0,2}%")),
        "How many hosts are promoted together: numbers, or shares of all hosts.", "[1, 25%, 100%]",
        ("promote_batches",)),
    Key("watch_seconds", _whole(0, 604_800), "Seconds for which a confirmed release is watched, and rolled back.",
        "3600", ("host_watch_seconds",), default="3600"),
    Key("keep_releases", _whole(1, 1000), "Healthy releases that stay on a host.", "5", ("promote_keep_releases",),
        default="5"),
    Key("metrics_path", (PATH,), "The metrics path, in Prometheus's text format.", "/metrics",
        ("host_metrics_path", "promote_metrics_path"), default="/metrics"),
    Key("gate_signals", _SIGNALS, "Metrics of the service's own that the gate compares; docs/gate.md has the form.",
        "[]", ("promote_signals",), default="only what HAProxy counts"),
    Key("watch_signals", _SIGNALS, "The same for the watch after a promotion.", "[]", ("host_watch_signals",),
        default="only what HAProxy counts"),
    Key("front", _object(*_FRONT), "HAProxy before the instances.", "{redirect_port: 80}"),
    Key("backup", _object(*_BACKUP), "Backups of /var/lib/<service>.", '{keep: 5, create: "*-*-* 02:30"}'),
    Key("hooks", _object(*(Key(name, (LINE,), f"Runs as the hook {name}.", f"hooks/{name}.yml") for name in HOOKS)),
        "Your task files around the phases of a release, relative to mobius.yml.",
        "{before_promote: hooks/before_promote.yml}"),
)  # fmt: skip
"""In the order in which `mobius init` writes them."""

NOT_YET: Mapping[str, str] = {
    "files": "configuration templates are not written by a release yet; pack the file, or write it in a hook",
    "migrate": "migrations are not run by a release yet; run the command in a hook, such as before_promote",
}
"""Keys that are planned and would do nothing today: why they are refused, and what to do meanwhile."""


def find_key(keys: Sequence[Key], name: str) -> Key | None:
    """The key of that name."""
    return next((key for key in keys if key.name == name), None)
