# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The smoke test of what a host serves: as clients reach it, as the front does, and by a test of the release's own."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import MobiusError
from ..host.config import Host
from ..host.front.certificate import read_certificate
from ..host.front.settings import HTTP, WORKER, FrontSettings
from ..host.instance import find_slot, request_instance
from ..host.revision import health_path_of
from ..host.systemd import Systemd
from .probes import Probe, health_probe, send_probe
from .requests import NO_RESPONSE_ERRORS, probe_requests

FRONT, RELEASE = "front", "release"  # the topics of the checks that are made for every service
COMMAND_TIMEOUT_SECONDS = 300.0
OUTPUT_MAX_BYTES = 1 << 20  # of the release's own test
REDIRECTS = (301, 302, 303, 307, 308)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a socket on all addresses is reached by this one


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and what was observed (`seen` in the report)."""

    topic: str
    name: str
    ok: bool
    seen: str

    def as_dict(self) -> dict[str, Any]:
        """The check as the report has it."""
        return asdict(self)


Results = Iterator[tuple[str, bool, object]]
"""Name of the check, whether it passed, and what was observed."""


def check_host(
    host: Host, release: str, probes: Sequence[Probe], timeout: float, systemd: Systemd | None = None
) -> list[Check]:
    """What every service is checked for, by its units, its health path and its probes.

    Args:
        release: the one that serves.
        timeout: seconds that one response may take.
    """
    systemd = systemd or Systemd()
    parts: list[tuple[str, Callable[[], Results]]] = [
        (RELEASE, lambda: _check_units(host, release, systemd)),
        (RELEASE, lambda: _check_instance(host, release, timeout)),
    ]
    if host.front.kind != WORKER:
        parts.append((FRONT, lambda: _check_public(host.front, health_path_of(host, release), timeout)))
    if host.front.kind == HTTP:
        parts.append(
            (
                FRONT,
                lambda: _check_probes(host, release, [health_probe(health_path_of(host, release)), *probes], timeout),
            )
        )
    checks = []
    for topic, part in parts:
        try:
            checks += [Check(topic, name, bool(ok), str(observed)) for name, ok, observed in part()]
        except (MobiusError, ValueError, *NO_RESPONSE_ERRORS) as error:
            checks.append(Check(topic, "its checks can run", False, str(error) or repr(error)))
    return checks


def _check_units(host: Host, release: str, systemd: Systemd) -> Results:
    units = [host.unit(release)]
    if host.front.kind != WORKER:
        units += [host.socket_unit, host.front_unit, host.traffic_unit]
    shown = systemd.units(*units)
    for name in units:
        state = shown[name].active if name in shown else "unknown to systemd"
        yield f"the unit {name} is active", state == "active", state


def _check_instance(host: Host, release: str, timeout: float) -> Results:
    try:
        status, _, body = request_instance(host, release, "GET", health_path_of(host, release), timeout=timeout)
    except OSError as error:
        yield "the instance is healthy", False, error
        return
    observed = status if host.front.kind == HTTP else body.decode(errors="replace")[:200] or "it runs"
    yield "the instance is healthy", 200 <= status < 300, observed


def _check_probes(host: Host, release: str, probes: Sequence[Probe], timeout: float) -> Results:
    request = probe_requests(host, release)
    for probe in probes:
        name = f"the probe {probe.name!r} is answered through the front"
        try:
            mismatch = send_probe(request, probe, timeout)
        except NO_RESPONSE_ERRORS as error:
            yield name, False, error or repr(error)
            continue
        yield name, mismatch is None, "as expected" if mismatch is None else mismatch.sentence()


def _check_public(front: FrontSettings, health_path: str, timeout: float) -> Results:
    """Whether clients are served: on the public address, with TLS and the PROXY protocol as they are configured."""
    if front.certificate is not None:
        try:
            yield "the certificate is valid", True, f"until {read_certificate(front.certificate).last_day}"
        except MobiusError as error:
            yield "the certificate is valid", False, error.reason
    where = f"{front.address}:{front.port}"
    try:
        yield from _check_clients(front, where, health_path, timeout)
    except (ssl.SSLError, *NO_RESPONSE_ERRORS) as error:
        yield f"{where} serves clients", False, error or repr(error)


def _check_clients(front: FrontSettings, where: str, health_path: str, timeout: float) -> Results:
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(_connect(front, front.port, timeout))
        if front.certificate is not None:
            channel = stack.enter_context(_start_tls(channel))
            shown = ssl.DER_cert_to_PEM_cert(channel.getpeercert(binary_form=True) or b"")
            is_used = shown.strip() in front.certificate.read_text(encoding="utf-8", errors="replace")
            seen = f"{channel.version()}, {'the one of the file' if is_used else f'another than {front.certificate}'}"
            yield "clients get the certificate of the file", is_used, seen
        if front.kind != HTTP:
            yield f"{where} accepts connections", True, "accepted"
            return
        response = _get(channel, health_path)
    allowed = [ipaddress.ip_network(network, strict=False) for network in front.allowed]
    is_allowed = not allowed or any(ipaddress.ip_address(_loopback(front)) in network for network in allowed)
    expected = "2xx" if is_allowed else "403, since this host is not among the allowed addresses"
    ok = 200 <= response.status < 300 if is_allowed else response.status == http.client.FORBIDDEN
    seen = str(response.status) if is_allowed or not ok else expected
    yield f"{where} answers the health path", ok, seen if ok else f"{response.status} in place of {expected}"
    if front.redirect_port:
        with _connect(front, front.redirect_port, timeout) as channel:
            response = _get(channel, "/")
        target = response.headers.get("Location", "")
        ok = response.status in REDIRECTS and target.startswith("https://")
        yield f"port {front.redirect_port} sends clients to https", ok, f"{response.status} {target}".strip()


def _loopback(front: FrontSettings) -> str:
    """The address of this host on which its own clients reach the front."""
    return _WILDCARDS.get(front.address, front.address)


@contextlib.contextmanager
def _connect(front: FrontSettings, port: int, timeout: float) -> Iterator[socket.socket]:
    with socket.create_connection((_loopback(front), port), timeout) as channel:
        if front.accept_proxy:
            channel.sendall(b"PROXY UNKNOWN\r\n")  # the address is the connection's own
        yield channel


def _start_tls(channel: socket.socket) -> ssl.SSLSocket:
    """TLS without trust: that the certificate is the file's is compared, not who has signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(channel)


def _get(channel: socket.socket, path: str) -> http.client.HTTPResponse:
    channel.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    response = http.client.HTTPResponse(channel, method="GET")
    response.begin()
    return response


# -- the release's own test --------------------------------------------------------------------------------------------


def run_own_test(
    host: Host,
    release: str,
    command: Sequence[str],
    *,
    timeout: float = COMMAND_TIMEOUT_SECONDS,
    systemd: Systemd | None = None,
) -> list[Check]:
    """Run a command of the release in its tree; `{pid}`, `{front}` and `{slot}` in its words are filled in.

    A JSON object with `checks` on its standard output (each with `topic`, `name`, `ok`, `seen`) is taken over; of other
    commands the exit code decides.

    Args:
        command: `{pid}` is the process of the instance, `{front}` the Unix socket of the front's entrance for probes
            and `{slot}` the number of the slot that a request to it names by the header X-Mobius-Slot.
        timeout: seconds.
    """
    unit = (systemd or Systemd()).units(host.unit(release)).get(host.unit(release))
    slot = find_slot(host, release)
    values = {
        "{pid}": str(unit.main_pid if unit and unit.main_pid else 0),
        "{front}": str(host.front.probes_socket),
        "{slot}": str(slot.number if slot else 0),
    }
    words = [_fill(word, values) for word in command]
    tree = host.release_dir(release) / "tree"
    name = f"`{' '.join(command)}` passes"
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }
    try:
        done = subprocess.run(
            words,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Check(RELEASE, name, False, f"it had not ended after {timeout:g} s")]
    except OSError as error:
        return [Check(RELEASE, name, False, f"it cannot be started: {error}")]
    if checks := _reported_checks(done.stdout):
        return checks
    lines = (done.stdout + b"\n" + done.stderr)[-OUTPUT_MAX_BYTES:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return [Check(RELEASE, name, done.returncode == 0, f"exit code {done.returncode}: {last[:300]}")]


def _fill(word: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        word = word.replace(key, value)
    return word


def _reported_checks(output: bytes) -> list[Check]:
    """The checks of a report; none when the output is no report."""
    if len(output) > OUTPUT_MAX_BYTES:
        return []
    try:
        reported = json.loads(output)["checks"]
        return [Check(str(one["topic"]), str(one["name"]), one["ok"] is True, str(one["seen"])) for one in reported]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
