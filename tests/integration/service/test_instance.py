# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One or two instances as seen by a load balancer, a scraper, systemd and misbehaving clients."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import socketserver
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mobius.dhash import Library
from mobius.dhash._descriptor import DESCRIPTOR_BYTES

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

OLD, NEW = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"
GOLDEN = Path(__file__).parents[3] / "playbooks/files/golden"


def series(page: str) -> dict[tuple[str, str], float]:
    """(name, release) to value; the last one wins where there are more labels."""
    return {
        (sample.name, sample.labels.get("release", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_golden_answers_come_over_http(host: ServiceHost) -> None:
    host.start(OLD, start="serving")
    with host.client() as client:
        for entry in json.loads((GOLDEN / "golden.json").read_text()):
            body = (GOLDEN / entry["body_file"]).read_bytes()
            answer = client.request(
                entry["method"], entry["path"], content=body, headers={"Content-Type": entry["content_type"]}
            )
            document = answer.json()
            assert answer.status_code == 200
            assert {key: document[key] for key in entry["json"]} == entry["json"]
            assert document["warnings"] == []


def test_http_answers_with_the_keys_of_the_command(host: ServiceHost) -> None:
    host.start(OLD, start="serving")
    path = GOLDEN / "rocket-orientation-6.jpg"
    call = [sys.executable, "-c", "from mobius.cli.dhash import dhash; dhash()", "hash", "--format", "json", path]
    printed = json.loads(subprocess.run(call, check=True, capture_output=True, cwd=GOLDEN.parents[2]).stdout)
    assert printed.pop("path") == str(path)
    with host.client() as client:
        assert client.post("/v1/hash", content=path.read_bytes()).json() == printed


def test_the_public_socket_reports_on_the_host_and_the_admin_socket_on_the_instance(host: ServiceHost) -> None:
    old, new = host.start(OLD, start="serving"), host.start(NEW)
    body = (GOLDEN / "camera-grey.png").read_bytes()
    new.admin.post("/v1/hash", content=body)
    new.admin.post("/v1/hash", content=b"no picture")
    with host.client() as client:
        text = client.get("/metrics").text
        lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
        assert len(lines) == len(set(lines)), "a scraper refuses a page with a duplicate series"
        page = series(text)
        assert (page["mobius_up", OLD], page["mobius_up", NEW]) == (1, 1)
        assert (page["mobius_serving", OLD], page["mobius_serving", NEW]) == (1, 0)
        assert page["mobius_extraction_failures_total", NEW] == 1
        assert all(release for _, release in page)
        figures = {entry["release"]: entry for entry in client.get("/metrics/dhash").json()["instances"]}
        assert figures[OLD]["requests"] == 0
        assert (figures[NEW]["requests"], figures[NEW]["extraction_failure_rate"]) == (2, 0.5)
        assert figures[NEW]["hash_seconds"]["p95"] > 0
        figures_of_new = new.admin.get("/metrics/dhash").json()
        assert (
            figures_of_new["release"],
            figures_of_new["requests"],
            figures_of_new["errors"],
            figures_of_new["error_rate"],
        ) == (NEW, 2, 0, 0)
        assert set(figures_of_new) >= {"memory_bytes", "uptime_seconds", "doubtful_queue", "hash_seconds", "images"}
        assert {release for _, release in series(new.admin.get("/metrics").text)} == {NEW}

        # a balancer keeps the host while one instance drains and another serves, even on the draining one's connection
        new.admin.post("/admin/serve")
        old.admin.post("/admin/standby")
        answer = client.get("/readyz")
        assert (answer.headers["X-Release-Id"], answer.status_code) == (OLD, 200)
        assert old.admin.get("/readyz").status_code == 503
        assert new.admin.get("/readyz").status_code == 200


def test_a_dead_and_a_frozen_neighbour_count_as_down_and_do_not_delay_the_page(host: ServiceHost) -> None:
    dead, frozen = host.start(OLD), host.start(NEW)
    third = host.start("1.2.0-cccccccccccc", start="serving")
    dead.process.kill()
    dead.process.wait(10)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        with host.client() as client:
            started = time.monotonic()
            page = series(client.get("/metrics").text)
            assert time.monotonic() - started < 1.5
            assert [page["mobius_up", release] for release in (OLD, NEW, third.release)] == [0, 0, 1]
            entries = {entry["release"]: entry["up"] for entry in client.get("/metrics/dhash").json()["instances"]}
            assert entries == {OLD: 0, NEW: 0, third.release: 1}
            assert client.get("/readyz").status_code == 200
    finally:
        frozen.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("body", [b"no metrics {", b"\xff\xfe", b"[1]", b"{}"])
def test_a_neighbour_with_an_invalid_answer_does_not_break_the_page(host: ServiceHost, body: bytes) -> None:
    good = host.start(NEW, start="serving")
    path = host.run_dir / OLD / "admin.sock"
    path.parent.mkdir()

    class Nonsense(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    with socketserver.ThreadingUnixStreamServer(str(path), Nonsense) as bad, host.client() as client:
        threading.Thread(target=bad.serve_forever, args=(0.01,), daemon=True).start()
        metrics, figures = client.get("/metrics"), client.get("/metrics/dhash")
        bad.shutdown()
    assert (metrics.status_code, figures.status_code) == (200, 200)
    assert series(metrics.text)["mobius_up", good.release] == 1
    assert {entry["release"]: entry["up"] for entry in figures.json()["instances"]} == {OLD: 0, good.release: 1}


def test_health_reports_identity_and_checks(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    instance = host.start(OLD, start="serving", index=str(index))
    answer = instance.admin.get("/health")
    health = answer.json()
    assert answer.headers["content-type"] == "application/health+json"
    assert (answer.status_code, health["status"], health["warnings"]) == (200, "pass", [])
    assert (health["version"], health["releaseId"], health["serviceId"]) == ("1.0.0", OLD, "mobius-dhash")
    assert health["checks"]["index:schema"][0] == {"status": "pass", "observedValue": 4, "observedUnit": "version"}
    assert health["checks"]["index:writable"][0]["observedValue"] is True
    assert health["checks"]["hash:golden"][0] == {"status": "pass", "observedValue": 0, "observedUnit": "bits"}
    assert health["checks"]["disk:free"][0]["observedValue"] > 0
    for name, (check,) in health["checks"].items():
        assert set(check) == {"status", "observedValue", "observedUnit"}, name


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "PRAGMA application_id=1836016233; PRAGMA user_version=1000;"
            "CREATE TABLE compatible (schema INTEGER, oldest INTEGER); INSERT INTO compatible VALUES (1000, 1000)",
            "schema 1000",
        ),
        (None, "file is not a database"),
    ],
)
def test_an_instance_whose_index_cannot_be_used_reports_it_and_still_hashes(
    host: ServiceHost, tmp_path: Path, damage: str | None, words: str
) -> None:
    index = tmp_path / "index.sqlite"
    if damage is None:
        index.write_bytes(b"this is not an index, but long enough to be read as one" * 50)
    else:
        with contextlib.closing(sqlite3.connect(index)) as database:
            database.executescript(damage)
    instance = host.start(OLD, start="serving", index=str(index))
    answer = instance.admin.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "fail")
    assert words in answer.json()["warnings"][0]
    assert instance.admin.get("/readyz").status_code == 503
    assert instance.admin.get("/livez").status_code == 200
    refused = instance.admin.get("/v1/duplicates")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert instance.admin.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes()).status_code == 200
    index.unlink()
    instance.wait_until(lambda health: health["status"] == "pass", "/health")
    assert instance.admin.get("/v1/duplicates").status_code == 200


def test_systemd_is_notified_of_readiness_watchdog_and_stop(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", WATCHDOG_USEC="600000")
    instance.listen_for("STATUS=serving")
    for _ in range(3):
        instance.received.clear()
        instance.listen_for("WATCHDOG=1", seconds=2)
    instance.received.clear()
    instance.process.send_signal(signal.SIGTERM)
    instance.listen_for("STOPPING=1", seconds=5)


def test_an_instance_stops_while_it_pairs_a_large_library(host: ServiceHost, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    chance = random.Random(1)
    Library(path, release="test").close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        # all have equal hashes and no two are duplicates: thirty million pairs to compare
        database.executemany(
            "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, posted, release,"
            " written_at) VALUES (?, 1, 'fast-2', 0, 0, ?, 1, 1, 'JPEG', 1, 'test', '2026-01-01T00:00:00+00:00')",
            ((f"{number:064x}", chance.randbytes(DESCRIPTOR_BYTES)) for number in range(8000)),
        )
    instance = host.start(OLD, index=str(path))
    assert instance.admin.get("/health").json()["checks"]["index:pictures"][0]["observedValue"] is None
    assert instance.stop() == 0
    assert "is abandoned" in "".join(instance.process.communicate())


def test_production_logs_go_to_a_file_and_the_console_is_silent(host: ServiceHost, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    old_umask = os.umask(0o077)
    try:
        instance = host.start(
            OLD, start="serving", environment="production", log_file=str(log), log_level="INFO", version="1.0.0"
        )
    finally:
        os.umask(old_umask)
    with host.client() as client:
        answer = client.post("/v1/hash", content=b"no picture", headers={"X-Request-Id": "trace-me.1"})
        assert answer.headers["X-Request-Id"] == "trace-me.1"
        assert len(client.get("/livez", headers={"X-Request-Id": "two\twords"}).headers["X-Request-Id"]) == 32
    assert instance.stop() == 0
    assert instance.process.communicate() == ("", "")
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    request = next(line for line in lines if line["body"] == "POST /v1/hash 415")
    assert request["severity_text"] == "INFO"
    assert request["resource"]["service.instance.id"] == OLD
    assert request["attributes"]["mobius.request_id"] == "trace-me.1"
    assert request["attributes"]["http.response.status_code"] == 415
    assert [line["body"] for line in lines if line["body"].startswith("Now")] == ["Now serving", "Now draining"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"colour": "red"}, "MOBIUS_COLOUR is not a setting of the service."),
        ({"start": "maybe"}, "MOBIUS_START must be serving or standby, not 'maybe'."),
        ({"max_pixels": "-1"}, "MOBIUS_MAX_PIXELS must be 1 to 2147483648, not '-1'."),
        ({"environment": "production"}, "MOBIUS_LOG_FILE must be set in production."),
    ],
)
def test_a_bad_setting_is_one_sentence_and_exit_code_one(
    host: ServiceHost, settings: dict[str, str], sentence: str
) -> None:
    process = host.launch(OLD, **settings)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert sentence in errors
    assert errors.count("\n") == 1


def raw(port: int, data: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as channel:
        channel.sendall(data)
        parts = []
        while part := channel.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def test_misbehaving_clients_get_a_problem_and_never_a_5xx(host: ServiceHost) -> None:
    host.start(OLD, start="serving", body_timeout="1", max_body_bytes="50000", max_pixels="100000")
    garbage = raw(host.port, b"\x16\x03\x01 hello\r\n\r\n")
    assert garbage.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in garbage
    assert b"x-release-id: 1.0.0-aaaaaaaaaaaa" in garbage.lower()
    endless = raw(host.port, b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    assert endless.startswith(b"HTTP/1.1 431 ")
    slow = raw(host.port, b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
    assert slow.startswith(b"HTTP/1.1 408 ")
    with host.client() as client:
        cases = [
            (415, client.post("/v1/hash", content=b"hello")),
            (415, client.post("/v1/hash", content=b"")),
            (415, client.post("/v1/hash", content=b"{}", headers={"Content-Type": "application/json"})),
            (400, client.post("/v1/hash?mode=sloppy", content=b"hello")),
            (413, client.post("/v1/hash", content=b"x" * 50_001)),
            (413, client.post("/v1/hash", content=iter([b"x" * 30_000, b"x" * 30_000]))),
            (413, client.post("/v1/hash", content=(GOLDEN / "astronaut-baseline.jpg").read_bytes())),
            (422, client.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes()[:5000])),
            (404, client.get("/admin/state")),
            (404, client.post("/admin/standby")),
            (405, client.get("/v1/hash")),
        ]
        for status, answer in cases:
            assert (answer.status_code, answer.json()["status"]) == (status, status)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"].endswith(".")
        # the same connection is still good after every refusal
        good = client.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes())
        assert good.status_code == 200
        assert client.get("/metrics/dhash").json()["instances"][0]["errors"] == 0


def test_more_requests_than_allowed_get_503_with_retry_after(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", max_in_flight="1")
    body = (GOLDEN / "camera-grey.png").read_bytes()
    with socket.create_connection(("127.0.0.1", host.port), timeout=10) as slow, host.client() as client:
        slow.sendall(b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
        instance.wait_until(lambda health: health["checks"]["requests:inFlight"][0]["observedValue"] == 1, "/health")
        refused = client.post("/v1/hash", content=body)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        slow.sendall(body)
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert client.post("/v1/hash", content=body).status_code == 200
