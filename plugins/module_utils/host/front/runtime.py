# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands to a running HAProxy over its runtime socket: states of the slots, and what it has counted.

Source of the commands and fields: HAProxy's management guide, 9.1 (statistics) and 9.3 (Unix socket commands).
"""

from __future__ import annotations

import csv
import io
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import MobiusError
from .configuration import (
    CLIENTS,
    DRAIN,
    HOLD_SERVER,
    MAINT,
    NO_RELEASE,
    OFF,
    ON,
    PUBLIC,
    READY,
    SERVICE,
    ServerState,
)
from .settings import FrontSettings
from .slots import REVISION, Slot, server_name

COMMAND_TIMEOUT_SECONDS = 5.0
ANSWER_MAX_BYTES = 4 << 20
PAYLOAD_MAX_BYTES = 15_000  # of HAProxy's buffer, which holds a command and what follows it
MESSAGE_MAX_CHARS = 200
# srv_admin_state: forced, inherited, by address, by name. 0x04 stays on a server that was configured so, ready or not.
_MAINT_BITS = 0x01 | 0x02 | 0x20 | 0x40
_DRAIN_BITS = 0x08 | 0x10
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")


@dataclass(frozen=True)
class Figures:
    """What HAProxy has counted since it was started, whatever release held the slot: only differences count.

    Attributes:
        responses: by class of status, "1xx" to "5xx" and "other"; of a slot, those that its instance gave.
        connection_errors: connections that the instance did not accept.
        response_errors: responses that it did not begin, or not as HTTP.
        aborted: responses that it did not end.
        retries: connections that were tried again, and `redispatches` those on another server.
        active: requests in progress; a WebSocket is one until it ends.
        waiting: requests that wait for a server.
    """

    responses: Mapping[str, int]
    connection_errors: int
    response_errors: int
    aborted: int
    retries: int
    redispatches: int
    active: int
    waiting: int

    @property
    def total(self) -> int:
        """All responses."""
        return sum(self.responses.values())


@dataclass(frozen=True)
class ProxyInfo:
    """A running HAProxy. Figures of two processes (`pid`) cannot be compared.

    `dropped_logs`: lines that the traffic receiver did not get. While it grows, latency is not known.
    """

    version: str
    pid: int
    uptime_seconds: int
    connections: int
    dropped_logs: int


class Runtime:
    """The runtime socket of a front. Every method is bounded in time.

    Every method raises `OSError` when HAProxy does not answer (in time), and `MobiusError` `environment_failed` when it
    answers that it cannot.

    Args:
        path: `FrontSettings.runtime_socket`.
        timeout: seconds for one whole answer.
    """

    def __init__(self, path: Path, timeout: float = COMMAND_TIMEOUT_SECONDS) -> None:
        self.path = path
        self.timeout = timeout

    def send(self, command: str, payload: str = "") -> str:
        """Send one command, with lines for it as a payload; returns HAProxy's answer."""
        if not command.isprintable() or ";" in command:
            raise ValueError(f"{command!r} is not one command")
        if payload:
            if not payload.endswith("\n") or "\n\n" in payload:
                raise ValueError("a payload ends with its first blank line")
            command = f"{command} <<\n{payload}"
        deadline = time.monotonic() + self.timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(self.timeout)
            channel.connect(str(self.path))
            channel.sendall(f"{command}\n".encode())
            answer = bytearray()
            while True:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"HAProxy had not answered on {self.path} after {self.timeout:g} s")
                channel.settimeout(remaining)
                part = channel.recv(65536)
                if not part:
                    return answer.decode("utf-8", "replace").strip("\n")
                answer += part
                if len(answer) > ANSWER_MAX_BYTES:
                    raise ConnectionError(f"HAProxy answered on {self.path} with more than {ANSWER_MAX_BYTES} bytes")

    def server_states(self) -> dict[str, ServerState]:
        """The state of each server of the service by its name: `slot1` and so on, and `hold`."""
        rows = self._table(f"show servers state {SERVICE}", "be_id", " ", skip=1)
        states = {}
        for row in rows:
            admin, weight = _number(row, "srv_admin_state"), _number(row, "srv_uweight")
            # a server that was rendered without weight drains since HAProxy was started
            is_draining = admin & _DRAIN_BITS or weight == 0
            state = MAINT if admin & _MAINT_BITS else DRAIN if is_draining else READY
            states[row.get("srv_name", "")] = ServerState(state, weight or 1)
        return states

    def set_state(self, slot: int, state: str) -> None:
        """Set a slot `ready`, `drain` or `maint`.

        One that was rendered to drain has no weight: before it is ready it needs `set_weight`. What gets requests is
        set first and what gets none then, so that there is no moment without a server.
        """
        self._set_server(server_name(slot), ServerState(state).state)

    def set_weight(self, slot: int, weight: int) -> None:
        """Set a slot's share of the requests, beside the others' weights."""
        self._do(f"set server {SERVICE}/{server_name(slot)} weight {ServerState(READY, weight).weight}")

    def name_release(self, settings: FrontSettings, slot: Slot) -> None:
        """Let the log name the release that holds the slot from now on."""
        release = slot.release or NO_RELEASE
        if release != NO_RELEASE and not REVISION.fullmatch(release):
            raise ValueError(f"{release!r} is not a release id")
        self._do(f"set map {settings.releases_path} {slot.server} {release}")

    def pause(self, slots: Sequence[int]) -> None:
        """Let requests wait: `hold` becomes ready, then these slots drain."""
        self._set_server(HOLD_SERVER, READY)
        for slot in slots:
            self.set_state(slot, DRAIN)

    def resume(self) -> None:
        """End a pause, once a slot is ready: requests that wait go there within a second."""
        self._set_server(HOLD_SERVER, MAINT)

    def set_maintenance(self, settings: FrontSettings, is_on: bool) -> None:
        """Give clients the page of maintenance, or no longer."""
        self._do(f"set map {settings.maintenance_map_path} {CLIENTS} {ON if is_on else OFF}")

    def is_maintenance(self, settings: FrontSettings) -> bool:
        """Whether clients get the page of maintenance."""
        answer = self.send(f"show map {settings.maintenance_map_path}")
        words = answer.split()  # the address of the entry, its key and its value
        if len(words) != 3 or words[1] != CLIENTS or words[2] not in (ON, OFF):
            raise _refusal(answer)
        return words[2] == ON

    def replace_certificate(self, path: Path, pem: bytes) -> None:
        """Use another certificate for new connections; those that there are go on.

        Args:
            path: of the certificate that HAProxy was started with.
            pem: the other one with its chain and its key, without blank lines.
        """
        answer = self.send(f"set ssl cert {path}", pem.decode("ascii"))
        if "Transaction" in answer:  # created, or updated when an earlier one was not committed
            answer = self.send(f"commit ssl cert {path}")
        if "Success!" not in answer:
            self.send(f"abort ssl cert {path}")  # it would keep a certificate of another path out
            raise _refusal(answer)

    def active_requests(self, slot: int) -> int:
        """The requests in progress in a slot."""
        return self.figures(slot).active

    def figures(self, slot: int) -> Figures:
        """What HAProxy counted for a slot, of clients' requests."""
        return self._figures(SERVICE, server_name(slot))

    def public_figures(self) -> Figures:
        """What HAProxy counted for all clients: `responses` are those that they got, `active` are their connections."""
        return self._figures(PUBLIC, "FRONTEND")

    def info(self) -> ProxyInfo:
        """The running process."""
        pairs = (line.partition(": ") for line in self.send("show info").splitlines())
        values = {name: value for name, _, value in pairs}
        return ProxyInfo(
            version=values.get("Version", ""),
            pid=_number(values, "Pid"),
            uptime_seconds=_number(values, "Uptime_sec"),
            connections=_number(values, "CurrConns"),
            dropped_logs=_number(values, "DroppedLogs"),
        )

    def _figures(self, proxy: str, server: str) -> Figures:
        rows = self._table(f"show stat {proxy} -1 -1", "pxname", ",")
        row = next((one for one in rows if one.get("pxname") == proxy and one.get("svname") == server), None)
        if row is None:
            raise _refusal(f"it has no {server} in {proxy}")
        return Figures(
            responses={name: _number(row, f"hrsp_{name}") for name in _CLASSES},
            connection_errors=_number(row, "econ"),
            response_errors=_number(row, "eresp"),
            aborted=_number(row, "srv_abrt"),
            retries=_number(row, "wretr"),
            redispatches=_number(row, "wredis"),
            active=_number(row, "scur"),
            waiting=_number(row, "qcur"),
        )

    def _set_server(self, server: str, state: str) -> None:
        self._do(f"set server {SERVICE}/{server} state {state}")

    def _do(self, command: str) -> None:
        """A command that answers nothing when it succeeds."""
        if answer := self.send(command).strip():
            raise _refusal(answer)

    def _table(self, command: str, first: str, separator: str, skip: int = 0) -> list[dict[str, str]]:
        """The rows of an answer whose head begins with `# <first>`, after `skip` lines."""
        answer = self.send(command)
        lines = answer.splitlines()[skip:]
        if not lines or not lines[0].startswith(f"# {first}"):
            raise _refusal(answer)
        try:
            head, *rows = csv.reader(io.StringIO("\n".join(lines)[2:]), delimiter=separator)
        except csv.Error as error:
            raise _refusal(f"{error}") from None
        return [dict(zip(head, row, strict=False)) for row in rows if row]


def _number(row: Mapping[str, str], name: str) -> int:
    """A counter of an answer; one that does not apply is empty and counts as zero."""
    value = row.get(name)
    if value is None or not (value == "" or value.isdigit()):
        raise _refusal(f"its field {name} is {value!r}")
    return int(value or 0)


def _refusal(answer: str) -> MobiusError:
    shown = " ".join("".join(char if char.isprintable() else " " for char in answer).split())
    return MobiusError(
        "environment_failed", f"HAProxy refused a command: {shown[:MESSAGE_MAX_CHARS].rstrip(' .') or 'no answer'}."
    )
