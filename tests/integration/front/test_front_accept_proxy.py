"""The PROXY protocol of a load balancer before a real HAProxy: the client's own address is what counts."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import READY, ServerState

from tests.integration.front.conftest import WAIT_SECONDS, Front, wait_until
from tests.integration.front.test_front_requests import any_certificate, make_certificate

A = "1.0.0-0123456789ab"
REQUEST = b"GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n"


def version_1(address: str, family: str = "TCP4") -> bytes:
    return f"PROXY {family} {address} {address} 5000 80\r\n".encode()


def version_2(address: str) -> bytes:
    """The proxy protocol's specification, 2.2: a signature, version and command, family, length, addresses."""
    addresses = socket.inet_aton(address) * 2 + struct.pack("!HH", 5000, 80)
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


def start(front: Front) -> Front:
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    front.start()
    return front


def exchange(port: int, head: bytes, request: bytes = REQUEST, tls: ssl.SSLContext | None = None) -> bytes:
    """What comes back for these bytes; nothing when the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) as plain:
        plain.sendall(head)
        channel = tls.wrap_socket(plain) if tls is not None else plain
        try:
            channel.sendall(request)
            return channel.makefile("rb").read()
        except ConnectionError:
            return b""
        finally:
            channel.close()


def seen(response: bytes) -> str:
    """The client's address as the instance received it."""
    content = json.loads(response.partition(b"\r\n\r\n")[2])
    return str(content["headers"]["x-forwarded-for"])


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


@pytest.fixture
def proxied(make_front: Callable[..., Front]) -> Front:
    return start(make_front(accept_proxy=True, access_log="file"))


@pytest.mark.parametrize(
    ("head", "address"),
    [
        (version_1("203.0.113.7"), "203.0.113.7"),
        (version_1("2001:db8::7", "TCP6"), "2001:db8::7"),
        (version_1("::ffff:203.0.113.7", "TCP6"), "203.0.113.7"),
        (version_2("203.0.113.7"), "203.0.113.7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
)
def test_an_instance_and_the_access_log_get_the_clients_own_address(proxied: Front, head: bytes, address: str) -> None:
    assert seen(exchange(proxied.port, head)) == address
    log = proxied.settings.run_dir / "access.log"
    wait_until(log.exists, "the request is logged")
    assert json.loads(log.read_text())["client"] == address


@pytest.mark.parametrize("head", [b"", b"PROXY TCP4 nonsense\r\n", b"\r\n\r\n\x00\r\nQUIT\nnonsense"])
def test_a_connection_without_the_protocol_is_closed(proxied: Front, head: bytes) -> None:
    assert exchange(proxied.port, head) == b""
    assert proxied.runtime.figures(1).total == 0


def test_without_the_setting_the_protocol_is_no_request(make_front: Callable[..., Front]) -> None:
    front = start(make_front())
    assert status(exchange(front.port, version_1("203.0.113.7"))) == 400


def test_each_client_has_its_own_rate_and_is_allowed_by_its_own_address(make_front: Callable[..., Front]) -> None:
    front = start(make_front(accept_proxy=True, rate_limit=3, allowed=["203.0.113.0/24"]))

    def statuses(address: str) -> list[int]:
        return [status(exchange(front.port, version_1(address))) for _ in range(4)]

    assert statuses("203.0.113.7") == [200, 200, 200, 429]
    assert statuses("203.0.113.8") == [200, 200, 200, 429]
    assert statuses("127.0.0.1") == [403] * 4


def test_probes_and_the_internal_listener_need_no_protocol(proxied: Front) -> None:
    assert proxied.probe("/", X_Mobius_Slot="1").status == 200
    assert proxied.get_internal("/slots/1/health").status == 200


def test_tls_begins_after_the_protocol_and_so_does_the_redirect(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    path = tmp_path / "tls.pem"
    make_certificate(path, "shop")
    front = start(make_front(accept_proxy=True, certificate=str(path), redirect_port=1080))
    assert seen(exchange(front.port, version_2("203.0.113.7"), tls=any_certificate())) == "203.0.113.7"
    redirect_port = front.redirect_listener.getsockname()[1]
    assert status(exchange(redirect_port, version_1("203.0.113.7"))) == 308
    assert exchange(redirect_port, b"") == b""
