# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for HAProxy, for the tests that make thousands of hosts: a process of HAProxy takes half a second each.

It reads a rendered configuration when it is started, as HAProxy does, and answers on a real runtime socket in HAProxy's
own format. tests/integration/front/test_fake_front.py compares it with a real HAProxy. It serves no clients: what one
would reach is `FakeHAProxy.receiving`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SERVICE, HOLD = "service", "hold"
BLOCK_PORTS = 6  # of one host: its internal port, its four slots and the public port
FIRST_PORT, LAST_PORT = 10_000, 19_999  # tests with a real HAProxy use higher ones
VERSION = "2.6.12-1+deb12u4"

FORCED_MAINT, CONFIGURED_MAINT, FORCED_DRAIN = 0x01, 0x04, 0x08  # of HAProxy's srv_admin_state
STOPPED, RUNNING = 0, 2  # of its srv_op_state
WEIGHT_MAX = 256
UNKNOWN_MAP = "Unknown map identifier. Please use #<id> or <file>.\n"

_STATE_FIELDS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
# HAProxy has more after these
_STAT_HEAD = (
    "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,"
    "req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt"
)
# what does not apply to a server or to a frontend is empty
_SERVER_COUNTERS = (
    "qcur,qmax,scur,smax,stot,bin,bout,dresp,econ,eresp,wretr,wredis,lbtot,"
    "hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,cli_abrt,srv_abrt"
)
_FRONTEND_COUNTERS = (
    "scur,smax,stot,bin,bout,dreq,dresp,ereq,rate,rate_lim,rate_max,"
    "hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,req_rate,req_rate_max,req_tot"
)
_SERVER_LINE = re.compile(
    r"server (?P<name>\S+) [\d.]+:(?P<port>\d+)(?: send-proxy-v2)?(?: weight (?P<weight>\d+))?(?P<disabled> disabled)?"
)
_pids = itertools.count(100)


class PortBlocks:
    """Blocks of free ports on 127.0.0.1 for the hosts of one process of the tests.

    Other processes run beside it, so it keeps the first port of each block bound: a block whose first port is taken is
    another process's. A host never listens on that one, its internal port.
    """

    def __init__(self) -> None:
        self._free: list[int] = []
        self._guards: list[socket.socket] = []
        self._next = FIRST_PORT

    def take(self) -> int:
        """The first port of a block that is in no use."""
        return self._free.pop() if self._free else self._reserve()

    def give_back(self, first: int) -> None:
        """Let another host of this process have a block."""
        self._free.append(first)

    def _reserve(self) -> int:
        while self._next + BLOCK_PORTS <= LAST_PORT:
            first, self._next = self._next, self._next + BLOCK_PORTS
            guard = socket.socket()
            try:
                guard.bind(("127.0.0.1", first))
                for port in range(first + 1, first + BLOCK_PORTS):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", port))
            except OSError:
                guard.close()
                continue
            self._guards.append(guard)
            return first
        raise AssertionError("there are no free ports")


PORTS = PortBlocks()


class Acceptor:
    """Accepts connections in a thread of its own, one after another, until it is closed."""

    def __init__(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        self.ended = threading.Event()
        self._listener, self._handle = listener, handle
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self.ended.is_set():
            try:
                channel, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            with channel, contextlib.suppress(OSError):  # the other side may be gone
                self._channel = channel
                if not self.ended.is_set():
                    self._handle(channel)

    def close(self) -> None:
        """End, also in the middle of a connection: from here on, connections are refused."""
        self.ended.set()
        for channel in (self._listener, self._channel):
            if channel is not None:
                with contextlib.suppress(OSError):
                    channel.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def read_head(channel: socket.socket) -> bytes:
    """A request as far as it has come when its head is whole; empty when there is none."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = channel.recv(65536)
        if not part:
            return b""
        received += part
    return received


@dataclass
class FakeServer:
    """A server of the service: a slot, or `hold`. `counters` are those of `show stat`, by their names there."""

    name: str
    port: int
    initial_weight: int
    weight: int
    admin: int = 0
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def is_stopped(self) -> bool:
        return bool(self.admin & FORCED_MAINT)

    @property
    def receives(self) -> bool:
        """Whether new requests go there."""
        return not self.is_stopped and not self.admin & FORCED_DRAIN and self.weight > 0


class FakeHAProxy:
    """One process of HAProxy: with each start it forgets what it was told, and what it has counted.

    Args:
        configuration: as `configuration.write` has rendered it.
        runtime_socket: `FrontSettings.runtime_socket`.
        probes_socket: `FrontSettings.probes_socket`; without it, no probe can enter.
    """

    def __init__(self, configuration: Path, runtime_socket: Path, probes_socket: Path | None = None) -> None:
        self.pid = next(_pids)
        self.dropped_logs = 0
        text = configuration.read_text()
        self.servers = {server.name: server for server in read_servers(text)}
        self.frontend: dict[str, int] = {}  # the counters of `public`
        self.maps = {
            path: dict(line.split() for line in Path(path).read_text().splitlines())
            for path in re.findall(r"map\(([^,()]+),", text)
        }
        self._acceptors = [Acceptor(_listen(runtime_socket), self._answer)]
        if probes_socket is not None:
            self._acceptors.append(Acceptor(_listen(probes_socket), self._forward))

    @property
    def releases(self) -> dict[str, str]:
        """The slots, with the releases that the log names for them."""
        return next(entries for entries in self.maps.values() if "slot1" in entries)

    @property
    def receiving(self) -> list[FakeServer]:
        """The slots that get clients' requests; while there is none, clients wait."""
        return [server for name, server in self.servers.items() if server.receives and name != HOLD]

    def state(self, name: str) -> tuple[str, int]:
        """What a server may do, `ready`, `drain` or `maint`, and its weight."""
        server = self.servers[name]
        return "ready" if server.receives else "maint" if server.is_stopped else "drain", server.weight

    def close(self) -> None:
        """End as by SIGKILL: its sockets stay where they are, and refuse."""
        for acceptor in self._acceptors:
            acceptor.close()

    def _answer(self, channel: socket.socket) -> None:
        command = b""
        while not command.endswith(b"\n"):
            part = channel.recv(4096)
            if not part:
                return
            command += part
        channel.sendall(f"{self.execute(command.decode().strip())}\n".encode())

    def execute(self, command: str) -> str:
        """HAProxy's answer to a command."""
        match command.split():
            case ["show", "servers", "state", "service"]:
                return self._show_states()
            case ["show", "servers", "state", _]:
                return "Can't find backend.\n"
            case ["set", "server", server, ("state" | "weight") as what, value]:
                return self._set_server(server, what, value)
            case ["set", "map", path, key, value]:
                return self._set_map(path, key, value)
            case ["show", "map", path]:
                return self._show_map(path)
            case ["show", "stat", proxy, "-1", "-1"]:
                return self._show_stat(proxy)
            case ["show", "info"]:
                return self._show_info()
        return f"Unknown command: the stand-in for HAProxy has no {command!r}\n"

    def _show_states(self) -> str:
        rows = [
            f"5 {SERVICE} {number} {server.name} 127.0.0.1 {STOPPED if server.is_stopped else RUNNING} {server.admin} "
            f"{server.weight} {server.initial_weight} 0 1 0 2 0 0 0 0 - {server.port} - 0 0 - - 0"
            for number, server in enumerate(self.servers.values(), start=1)
        ]
        return "\n".join(["1", f"# {_STATE_FIELDS}", *rows]) + "\n"

    def _set_server(self, path: str, what: str, value: str) -> str:
        backend, _, name = path.partition("/")
        if backend != SERVICE:
            return "No such backend.\n"
        server = self.servers.get(name)
        if server is None:
            return "No such server.\n"
        if what == "weight":
            if not 0 <= int(value) <= WEIGHT_MAX:
                return "Absolute weight can only be between 0 and 256 inclusive.\n"
            server.weight = int(value)
            return ""
        forced = {"ready": 0, "drain": FORCED_DRAIN, "maint": FORCED_MAINT}
        if value not in forced:
            return "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n"
        # the bit of a server that was configured in maintenance stays for good
        server.admin = server.admin & ~(FORCED_MAINT | FORCED_DRAIN) | forced[value]
        return ""

    def _set_map(self, path: str, key: str, value: str) -> str:
        if path not in self.maps:
            return UNKNOWN_MAP
        if key not in self.maps[path]:
            return "entry not found.\n"
        self.maps[path][key] = value
        return ""

    def _show_map(self, path: str) -> str:
        if path not in self.maps:
            return UNKNOWN_MAP
        return "".join(
            f"0x{number:012x} {key} {value}\n" for number, (key, value) in enumerate(self.maps[path].items())
        )

    def _show_stat(self, proxy: str) -> str:
        if proxy == SERVICE:
            rows = [_stat_row(proxy, one.name, one.counters, _SERVER_COUNTERS) for one in self.servers.values()]
        elif proxy == "public":
            rows = [_stat_row(proxy, "FRONTEND", self.frontend, _FRONTEND_COUNTERS)]
        else:
            return "No such proxy.\n"
        return "\n".join([f"# {_STAT_HEAD},", *rows]) + "\n"

    def _show_info(self) -> str:
        facts = {
            "Name": "HAProxy",
            "Version": VERSION,
            "Pid": self.pid,
            "Uptime_sec": 0,
            "CurrConns": 0,
            "DroppedLogs": self.dropped_logs,
        }
        return "\n".join(f"{name}: {value}" for name, value in facts.items()) + "\n"

    def _forward(self, client: socket.socket) -> None:
        """Send a probe on to the instance of its slot, and its response back."""
        head, _, body = read_head(client).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines[1:]}
        slot = headers.get(b"x-mobius-slot", b"")
        if re.fullmatch(b"[1-4]", slot) is None:
            client.sendall(_response(400, "Bad Request"))
            return
        kept = [line for line in lines if not re.match(rb"(?i)x-mobius-slot:|connection:|x-forwarded-", line)]
        added = [b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http", b"Connection: close"]
        missing = int(headers.get(b"content-length", b"0")) - len(body)
        while missing > 0 and (part := client.recv(65536)):
            body, missing = body + part, missing - len(part)
        try:
            with socket.create_connection(("127.0.0.1", self.servers[f"slot{slot.decode()}"].port)) as instance:
                instance.sendall(b"\r\n".join([*kept, *added, b"", body]))
                began = False
                while part := instance.recv(65536):
                    began = True
                    client.sendall(part)
        except OSError:
            began = False
        if not began:
            client.sendall(_response(503, "Service Unavailable"))


def read_servers(text: str) -> Iterator[FakeServer]:
    """The servers of the service in a configuration."""
    section = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            section = line
        if section == f"backend {SERVICE}" and (found := _SERVER_LINE.fullmatch(line.strip())):
            weight = int(found["weight"])
            admin = FORCED_MAINT | CONFIGURED_MAINT if found["disabled"] else 0
            yield FakeServer(found["name"], int(found["port"]), weight, weight, admin)


def _stat_row(proxy: str, name: str, counters: dict[str, int], known: str) -> str:
    values = {field: str(counters.get(field, 0)) for field in known.split(",")}
    return ",".join([proxy, name, *(values.get(field, "") for field in _STAT_HEAD.split(",")[2:])]) + ","


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def _response(status: int, reason: str) -> bytes:
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
