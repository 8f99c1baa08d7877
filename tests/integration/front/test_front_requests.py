"""What a request becomes on its way through a real HAProxy, and what is counted of it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.haproxy_check import check_configuration
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import configuration
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.certificate import read_certificate
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import READY, ServerState
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.slots import Slot

from tests.clients import client_load
from tests.integration.front.conftest import COLLECTIONS, WAIT_SECONDS, Front, send, wait_until

A, B = "1.0.0-0123456789ab", "1.1.0-0123456789ab+89abcdef"


def start(front: Front) -> Front:
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    front.start()
    return front


@pytest.fixture
def serving(front: Front) -> Front:
    return start(front)


def exchange(front: Front, request: bytes) -> bytes:
    """Send these bytes, and nothing more; returns the response."""
    with socket.create_connection(("127.0.0.1", front.port), WAIT_SECONDS) as channel:
        channel.sendall(request)
        channel.shutdown(socket.SHUT_WR)
        return channel.makefile("rb").read()


# -- what an instance receives --


@pytest.mark.parametrize(
    "forged",
    [
        {"X_Forwarded_For": "192.0.2.1"},
        {"x_forwarded_proto": "https", "X_Forwarded_Host": "evil"},
        {"Forwarded": "for=192.0.2.1", "X_Real_IP": "192.0.2.1"},
    ],
)
@pytest.mark.parametrize("separator", ["-", "_"])
def test_what_a_client_claims_of_its_address_is_replaced(
    serving: Front, forged: dict[str, str], separator: str
) -> None:
    head = "".join(f"{name.replace('_', separator)}: {value}\r\n" for name, value in forged.items())
    response = exchange(serving, f"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{head}\r\n".encode())
    assert b'"x-forwarded-for": "127.0.0.1"' in response
    assert b'"x-forwarded-proto": "http"' in response
    assert b"192.0.2.1" not in response
    assert b"evil" not in response


def test_an_ipv4_client_of_a_socket_for_both_protocols_has_its_ipv4_address(make_front: Callable[..., Front]) -> None:
    front = start(make_front(address="::"))
    assert front.get().content["headers"]["x-forwarded-for"] == "127.0.0.1"
    connection = http.client.HTTPConnection("::1", front.port, timeout=WAIT_SECONDS)
    assert send(connection, "GET", "/").content["headers"]["x-forwarded-for"] == "::1"
    connection.close()


def test_a_body_over_the_limit_is_refused(make_front: Callable[..., Front]) -> None:
    front = start(make_front(body_limit=1000))
    assert front.get(method="POST", body=b"x" * 1000).content["size"] == 1000
    assert front.get(method="POST", body=b"x" * 1001).status == 413
    chunked = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert exchange(front, chunked).startswith(b"HTTP/1.1 411 ")
    assert front.get(Content_Length="5000000000000").status == 413


@pytest.mark.parametrize(("limit", "received"), [(1000, 0), (0, 1)])
def test_over_http2_too_a_body_without_a_length_never_reaches_an_instance_that_has_a_limit(
    make_front: Callable[..., Front], limit: int, received: int
) -> None:
    front = start(make_front(body_limit=limit))
    command = ["curl", "-s", "--http2-prior-knowledge", "-T", "-", f"http://127.0.0.1:{front.port}/"]
    # curl may notice that its stream was reset before it has read the response
    subprocess.run(command, input=b"x" * 5000, capture_output=True, check=False)
    assert front.runtime.figures(1).total == received
    assert front.runtime.public_figures().responses["4xx"] == 1 - received


def test_without_a_limit_a_body_without_a_length_is_passed_on(serving: Front) -> None:
    assert serving.get(method="POST", body=iter([b"x" * 70_000, b"y" * 70_000])).content["size"] == 140_000


def test_a_head_over_the_limit_is_refused(make_front: Callable[..., Front]) -> None:
    front = start(make_front(header_limit=2000))
    assert front.get(X_Long="x" * 1800).status == 200
    assert front.get(X_Long="x" * 2000).status == 431


def test_a_limit_over_that_of_haproxy_is_allowed(make_front: Callable[..., Front]) -> None:
    head = {f"X_Long_{number}": "x" * 10_000 for number in range(3)}
    assert start(make_front()).get(**head).status in (400, 431)
    assert start(make_front(header_limit=40_000)).get(**head).status == 200


def test_a_client_with_too_many_requests_has_to_wait(make_front: Callable[..., Front]) -> None:
    front = start(make_front(rate_limit=5))
    assert [front.get().status for _ in range(5)] == [200] * 5
    refused = front.get()
    assert (refused.status, refused.headers["retry-after"]) == (429, "10")
    assert front.probe(X_Mobius_Slot="1").status == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_only_allowed_addresses_are_served(make_front: Callable[..., Front], address: str) -> None:
    assert start(make_front(address=address, allowed=["192.0.2.0/24"])).get().status == 403
    front = start(make_front(address=address, allowed=["192.0.2.0/24", "127.0.0.0/8"]))
    assert front.get().status == 200
    if address == "::":
        connection = http.client.HTTPConnection("::1", front.port, timeout=WAIT_SECONDS)
        assert send(connection, "GET", "/").status == 403
        connection.close()


# -- TLS --


def make_certificate(path: Path, name: str) -> None:
    key = path.with_suffix(".key")
    subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", "-keyout", str(key), "-out", str(path)]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "req", "-x509", *kind, *subject], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())


def any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect_tls(port: int, *protocols: str) -> ssl.SSLSocket:
    context = any_certificate()
    context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), WAIT_SECONDS))


def test_tls_offers_http2_and_its_certificate_is_renewed_without_a_dropped_connection(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    path = tmp_path / "tls.pem"
    make_certificate(path, "old")
    front = start(make_front(certificate=str(path)))
    with connect_tls(front.port, "h2", "http/1.1") as modern:
        assert modern.selected_alpn_protocol() == "h2"
    kept = http.client.HTTPSConnection("127.0.0.1", front.port, timeout=WAIT_SECONDS, context=any_certificate())
    assert send(kept, "GET", "/").content["release"] == A
    worker = front.worker()
    make_certificate(path, "new")
    kept.request("GET", "/slow?1")
    wait_until(lambda: front.runtime.active_requests(1) == 1, "the slow request is in progress")
    assert front.master is not None
    front.master.send_signal(signal.SIGUSR2)
    wait_until(lambda: front.worker() != worker, "another worker serves")
    with connect_tls(front.port, "http/1.1") as renewed:
        assert b"new" in (renewed.getpeercert(binary_form=True) or b"")
    assert b"/slow?1" in kept.getresponse().read()
    kept.close()


def served_name(port: int) -> bytes:
    """The bytes of the certificate that a new connection gets."""
    with connect_tls(port, "http/1.1") as channel:
        return channel.getpeercert(binary_form=True) or b""


@pytest.mark.slow
def test_no_connection_is_dropped_while_certificates_follow_each_other(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    path = tmp_path / "tls.pem"
    make_certificate(path, "name-0")
    front = start(make_front(certificate=str(path)))
    worker = front.worker()
    with client_load(front.port, pause=0.0, kept=4, single=2, tls=any_certificate()) as load:
        for number in range(1, 6):
            make_certificate(path, f"name-{number}")
            assert f"name-{number - 1}".encode() in served_name(front.port)
            front.runtime.replace_certificate(path, read_certificate(path, hidden_folders=(), user="root").pem)
            assert f"name-{number}".encode() in served_name(front.port)
            count = load.answers[A]
            wait_until(lambda count=count: load.answers[A] > count + 20, "clients go on")  # type: ignore[misc]
    assert load.failures == []
    assert set(load.statuses) == {200}
    assert front.worker() == worker


def test_a_certificate_that_haproxy_cannot_use_leaves_the_one_before(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    path = tmp_path / "tls.pem"
    make_certificate(path, "good")
    front = start(make_front(certificate=str(path)))
    pem = path.read_bytes()
    with pytest.raises(MobiusError, match=r"HAProxy refused a command: .*key"):
        front.runtime.replace_certificate(path, pem.partition(b"-----BEGIN PRIVATE")[0])
    with pytest.raises(MobiusError, match=r"HAProxy refused a command: .*not referenced"):
        front.runtime.replace_certificate(tmp_path / "other.pem", pem)
    assert b"good" in served_name(front.port)
    front.runtime.replace_certificate(path, pem)


def test_without_a_socket_for_the_redirect_the_front_serves_all_the_same(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    """The socket unit was opened before it had the port: systemd opens the other one when it opens it again."""
    make_certificate(tmp_path / "tls.pem", "shop")
    front = make_front(certificate=str(tmp_path / "tls.pem"), redirect_port=1080)
    front.listener_count = 1
    start(front)
    assert b"shop" in served_name(front.port)


@pytest.mark.parametrize("host", ["shop.example", "shop.example:80", "[2001:db8::1]:80", "[2001:db8::1]"])
def test_http_is_redirected_to_https(make_front: Callable[..., Front], tmp_path: Path, host: str) -> None:
    make_certificate(tmp_path / "tls.pem", "shop")
    front = start(make_front(certificate=str(tmp_path / "tls.pem"), redirect_port=1080))
    with socket.create_connection(front.redirect_listener.getsockname(), WAIT_SECONDS) as channel:
        channel.sendall(f"GET /a?b=c HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = channel.makefile("rb").read().decode()
    assert response.startswith("HTTP/1.1 308 ")
    assert f"location: https://{host.removesuffix(':80')}:{front.port}/a?b=c\r\n" in response


def test_the_instance_knows_that_its_client_used_tls(make_front: Callable[..., Front], tmp_path: Path) -> None:
    make_certificate(tmp_path / "tls.pem", "shop")
    front = start(make_front(certificate=str(tmp_path / "tls.pem"), http2=False))
    with connect_tls(front.port, "h2", "http/1.1") as channel:
        assert channel.selected_alpn_protocol() == "http/1.1"
        channel.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n\r\n")
        assert b'"x-forwarded-proto": "https"' in channel.makefile("rb").read()


# -- probes and the internal listener --


def test_a_probe_reaches_the_slot_that_it_names_and_counts_for_no_client(serving: Front) -> None:
    serving.add_instance(B)
    assert serving.probe("/p", X_Mobius_Slot="2").content["release"] == B
    assert "x-mobius-slot" not in serving.probe("/p", X_Mobius_Slot="1").content["headers"]
    assert serving.probe("/p", X_Mobius_Slot="3").status == 503
    assert serving.probe("/p").status == 400
    assert serving.probe("/p", X_Mobius_Slot="5").status == 400
    assert serving.runtime.public_figures().total == 0
    assert serving.runtime.figures(1).total == 0
    wait_until(lambda: serving.counted("mobius_front_requests_total", source="probe") == 5, "the probes are counted")
    assert serving.counted("mobius_front_requests_total", source="public") == 0


def test_a_client_cannot_choose_a_slot(serving: Front) -> None:
    serving.add_instance(B)
    assert serving.get(X_Mobius_Slot="2").content["release"] == A


def test_each_slot_has_its_health_and_metrics(make_front: Callable[..., Front]) -> None:
    front = start(make_front(health_path="/aZ0._~/%25+-", metrics_path="/some/metrics"))
    assert front.get_internal("/slots/1/health").content["path"] == "/aZ0._~/%25+-"
    assert front.get_internal("/slots/1/metrics").content["path"] == "/some/metrics"
    assert front.get_internal("/slots/2/health").status == 503
    for path in ("/", "/slots/5/health", "/slots/1/health/../../admin", "/slots/1/other", "/slots/1/health/"):
        assert front.get_internal(path).status == 404
    page = front.get_internal("/metrics")
    assert 'haproxy_server_current_sessions{proxy="service",server="slot1"}' in page.body.decode()


# -- what is counted --


def test_traffic_is_counted_per_release_also_when_a_slot_is_used_again(serving: Front) -> None:
    for _ in range(5):
        serving.get()
    serving.get("/slow?0.3")
    serving.get("/fail")
    slot = serving.add_instance("9.0.0-0123456789ab")
    serving.serve_alone("9.0.0-0123456789ab")
    serving.remove_instance(A)
    assert serving.add_instance(B).number == 1
    serving.serve_alone(B)
    for _ in range(3):
        serving.get()
    wait_until(lambda: serving.counted("mobius_front_requests_total", release=B) == 3, "the last request is counted")
    assert serving.counted("mobius_front_requests_total", release=A, code="2xx") == 6
    assert serving.counted("mobius_front_requests_total", release=A, code="5xx") == 1
    assert serving.counted("mobius_front_requests_total") == 10
    slow = serving.counted("mobius_front_response_seconds_bucket", release=A, le="+Inf") - serving.counted(
        "mobius_front_response_seconds_bucket", release=A, le="0.25"
    )
    assert slow == 1
    assert serving.runtime.figures(1).responses["5xx"] == 1
    assert serving.runtime.figures(slot.number).total == 0
    assert serving.runtime.info().dropped_logs == 0


def test_a_crash_without_a_response_is_counted_by_both(serving: Front) -> None:
    assert serving.get("/die").status == 502
    figures = serving.runtime.figures(1)
    assert figures.response_errors + figures.aborted >= 1  # HAProxy 3.0 counts two
    assert serving.runtime.public_figures().responses["5xx"] == 1
    wait_until(lambda: serving.counted("mobius_front_aborted_total", release=A, by="server") == 1, "it is counted")


def test_what_a_client_sends_never_reaches_the_log(serving: Front) -> None:
    quote = '"},{"source":"public'
    exchange(serving, f"GET /{quote} HTTP/1.1\r\nHost: {quote}\r\nUser-Agent: {quote}\r\n\r\n".encode())
    exchange(serving, b"\x16\x03\x01 garbage\r\n\r\n")
    serving.get()
    wait_until(lambda: serving.counted("mobius_front_log_lines_total", result="counted") == 3, "all are counted")
    assert serving.counted("mobius_front_log_lines_total", result="malformed") == 0


def test_the_log_outlives_its_receiver(serving: Front) -> None:
    """A receiver that is started again has another socket at the same path."""
    serving.settings.traffic_socket.unlink()
    serving.get()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(serving.settings.traffic_socket))
        channel.settimeout(WAIT_SECONDS)
        serving.get()
        assert A.encode() in channel.recv(4096)


RECEIVER = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import settings, traffic
traffic.run(Path(sys.argv[2]), settings.FrontSettings.parse(json.loads(sys.argv[3])))
"""


@pytest.mark.parametrize("access_log", ["none", "journal"])
def test_the_receiver_is_a_process_that_inherits_its_socket(make_front: Callable[..., Front], access_log: str) -> None:
    serving = start(make_front(access_log=access_log))
    serving.settings.traffic_socket.unlink()
    page = serving.settings.run_dir / "process.prom"
    names = ("service", "port", "first_port", "internal_port", "health_path", "access_log")
    settings = {name: getattr(serving.settings, name) for name in names} | {"run_dir": str(serving.settings.run_dir)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(serving.settings.traffic_socket))
        start_it = f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&{channel.fileno()}'
        command = ["bash", "-c", start_it, "bash", sys.executable, "-c", RECEIVER, COLLECTIONS, str(page)]
        process = subprocess.Popen(
            [*command, json.dumps(settings)], pass_fds=(channel.fileno(),), stdout=subprocess.PIPE
        )
    wait_until(page.exists, "the receiver is ready")
    serving.get("/one?secret")
    serving.get("/two")
    expected = f'{{service="{serving.settings.service}",release="{A}",source="public",code="2xx"}} 2'
    wait_until(lambda: expected in page.read_text(), "both requests are counted")
    process.terminate()
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    paths = [json.loads(line)["path"] for line in output.splitlines()]
    assert paths == (["/one", "/two"] if access_log == "journal" else [])


# -- commands that HAProxy refuses --


def test_haproxys_refusal_is_one_sentence(serving: Front) -> None:
    for act in (
        lambda: serving.runtime.set_state(9, READY),
        lambda: serving.runtime.figures(9),
        lambda: serving.runtime.name_release(serving.settings, Slot(9, 1, A)),
        lambda: serving.runtime._do("no such command"),
    ):
        with pytest.raises(MobiusError) as raised:
            act()
        assert raised.value.outcome == "environment_failed"
        assert re.fullmatch(r"HAProxy refused a command: [^\n]{1,200}\.", raised.value.reason)


# -- the check --


@pytest.mark.parametrize("affinity", ["none", "cookie", "source"])
def test_a_configuration_with_every_setting_passes_the_check(
    make_front: Callable[..., Front], tmp_path: Path, affinity: str
) -> None:
    make_certificate(tmp_path / "tls.pem", "shop")
    front = make_front(
        affinity=affinity,
        access_log="none" if affinity == "none" else "file",
        maintenance_page="<p>Later</p>",
        certificate=str(tmp_path / "tls.pem"),
        body_limit=1,
        header_limit=1024,
        rate_limit=1,
        allowed=["10.0.0.0/8", "2001:db8::/32"],
        redirect_port=1080,
        accept_proxy=affinity == "source",
        send_proxy=True,
        address="::",
        reuse_connections=True,
        metrics_path="/m%25",
        timeouts={"tunnel": 0.001},
        extra={"global": ["nbthread 1"], "frontend": ["http-request deny if FALSE"], "backend": ["fullconn 10"]},
    )
    text = configuration.render(front.settings, front.slots.read(), {}, is_paused=True)
    assert check_configuration(front.settings, text) == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"extra": {"frontend": ["http-reqest deny"]}},
            "unknown keyword 'http-reqest' in 'frontend' section; did you mean 'http-request' maybe ?, "
            "in the line 'http-reqest deny'",
        ),
        (
            {"certificate": "/nowhere/tls.pem"},
            "unable to stat SSL certificate from file '/nowhere/tls.pem' : No such file or directory, in the line 'bind fd@3 ",
        ),
        ({"extra": {"backend": ["balance wrong"]}}, "in the line 'balance wrong'"),
    ],
)
def test_a_configuration_that_haproxy_refuses_is_invalid_input_with_its_first_message(
    make_front: Callable[..., Front], changes: dict[str, object], reason: str
) -> None:
    front = make_front(**changes)
    with pytest.raises(MobiusError) as raised:
        check_configuration(front.settings, configuration.render(front.settings, front.slots.read(), {}))
    assert raised.value.outcome == "invalid_input"
    assert raised.value.reason.startswith("HAProxy refuses the configuration of shop: ")
    assert reason in raised.value.reason
    assert raised.value.reason.isprintable()


def test_a_warning_of_haproxy_is_returned(make_front: Callable[..., Front]) -> None:
    front = make_front(extra={"frontend": ["use_backend slot1 if FALSE", "http-request deny if FALSE"]})
    warnings = check_configuration(front.settings, configuration.render(front.settings, front.slots.read(), {}))
    assert len(warnings) == 1
    assert "in the line 'http-request deny if FALSE'" in warnings[0]
