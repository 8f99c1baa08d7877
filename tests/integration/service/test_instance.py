# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An instance as seen by a load balancer, a scraper, systemd and misbehaving clients."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mobius.dhash import Library
from mobius.dhash._descriptor import DESCRIPTOR_BYTES
from mobius.service.tokens import line_for, new_token
from tests.integration.service.conftest import free_port

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
    host.start(OLD)
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
    host.start(OLD)
    path = GOLDEN / "rocket-orientation-6.jpg"
    call = [sys.executable, "-c", "from mobius.cli.dhash import dhash; dhash()", "hash", "--format", "json", path]
    printed = json.loads(subprocess.run(call, check=True, capture_output=True, cwd=GOLDEN.parents[2]).stdout)
    assert printed.pop("path") == str(path)
    with host.client() as client:
        assert client.post("/v1/hash", content=path.read_bytes()).json() == printed


def test_each_instance_reports_on_itself(host: ServiceHost) -> None:
    old, new = host.start(OLD, state="serving"), host.start(NEW, state="standby")
    new.client.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes())
    new.client.post("/v1/hash", content=b"no picture")
    for instance, is_serving, failures in ((old, 1, None), (new, 0, 1)):
        text = instance.client.get("/metrics").text
        lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
        assert len(lines) == len(set(lines)), "a scraper refuses a page with a duplicate series"
        types = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len(set(types)), "a family must be announced once"
        page = series(text)
        assert {release for _, release in page} == {instance.release}
        assert page["mobius_serving", instance.release] == is_serving
        assert page.get(("mobius_extraction_failures_total", instance.release)) == failures
        assert instance.client.get("/readyz").json() == {"ready": True, "state": "serving" if is_serving else "standby"}
    assert old.client.get("/metrics/dhash").json()["requests"] == 0
    figures = new.client.get("/metrics/dhash").json()
    assert [figures[name] for name in ("release", "requests", "errors", "error_rate")] == [NEW, 2, 0, 0]
    assert figures["extraction_failure_rate"] == 0.5
    assert figures["hash_seconds"]["p95"] > 0
    assert set(figures) >= {"memory_bytes", "uptime_seconds", "doubtful_queue", "images"}


def test_an_address_in_use_is_one_sentence(host: ServiceHost) -> None:
    running = host.start(OLD)
    process = host.launch(NEW, running.port)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.count("\n")) == (3, 1)
    assert f"Listening on 127.0.0.1:{running.port} failed: Address already in use." in errors
    assert "Traceback" not in output + errors
    assert running.client.get("/livez").headers["X-Release-Id"] == OLD


def test_answers_are_not_delayed_by_nagle(host: ServiceHost) -> None:
    host.start(OLD)
    times = []
    with host.client() as client:
        for _ in range(30):
            started = time.monotonic()
            client.post("/v1/hash", content=b"x" * 10_000)
            times.append(time.monotonic() - started)
    assert sorted(times)[15] < 0.03


def test_health_reports_identity_and_checks(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    instance = host.start(OLD, index=str(index))
    answer = instance.client.get("/health")
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
    instance = host.start(OLD, index=str(index))
    answer = instance.client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "fail")
    assert words in answer.json()["warnings"][0]
    assert instance.client.get("/readyz").status_code == 503
    assert instance.client.get("/livez").status_code == 200
    refused = instance.client.get("/v1/duplicates")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert instance.client.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes()).status_code == 200
    index.unlink()
    instance.wait_until(lambda health: health["status"] == "pass", "/health")
    assert instance.client.get("/v1/duplicates").status_code == 200


def test_systemd_is_notified_of_readiness_watchdog_and_stop(host: ServiceHost) -> None:
    instance = host.start(OLD, WATCHDOG_USEC="600000")
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
    assert instance.client.get("/health").json()["checks"]["index:pictures"][0]["observedValue"] is None
    assert instance.stop() == 0
    assert "is abandoned" in "".join(instance.process.communicate())


def test_production_logs_go_to_a_file_and_the_console_is_silent(host: ServiceHost, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    old_umask = os.umask(0o077)
    try:
        instance = host.start(OLD, environment="production", log_file=str(log), log_level="INFO", version="1.0.0")
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
        ({"start": "standby"}, "MOBIUS_START is not a setting of the service."),
        ({"max_pixels": "-1"}, "MOBIUS_MAX_PIXELS must be 1 to 2147483648, not '-1'."),
        ({"environment": "production"}, "MOBIUS_LOG_FILE must be set in production."),
    ],
)
def test_a_bad_setting_is_one_sentence_and_exit_code_one(
    host: ServiceHost, settings: dict[str, str], sentence: str
) -> None:
    process = host.launch(OLD, free_port(), **settings)
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
    host.start(OLD, body_timeout="1", max_body_bytes="50000", max_pixels="100000")
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
            (404, client.get("/nothing")),
            (404, client.post("/nothing")),
            (405, client.get("/v1/hash")),
        ]
        for status, answer in cases:
            assert (answer.status_code, answer.json()["status"]) == (status, status)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"].endswith(".")
        # the same connection is still good after every refusal
        good = client.post("/v1/hash", content=(GOLDEN / "camera-grey.png").read_bytes())
        assert good.status_code == 200
        assert client.get("/metrics/dhash").json()["errors"] == 0


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("GET /livez HTTP/1.1", "", 400),
        ("GET /livez HTTP/1.1\r\nHost: h\r\nHost: h", "", 400),
        ("GET /livez HTTP/1.1\r\nHost: [", "", 400),
        ("GET /livez HTTP/1.1\r\nHost: [::1]:80", "", 200),
        ("GET /livez HTTP/1.0", "", 200),
        ("POST /v1/images HTTP/1.1\r\nHost: h\r\nOrigin: http://[\r\nContent-Length: 0", "", 403),
        ("POST /v1/hash HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked", "0\r\n\r\n", 400),
        ("POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 1", "x", 415),
        (f"GET /{'a' * 9000} HTTP/1.1\r\nHost: h", "", 414),
        (f"GET /livez HTTP/1.1\r\nHost: h\r\nX: {'a' * 66_000}", "", 431),
        (f"GET /livez?{'a' * 70_000} HTTP/1.1\r\nHost: h", "", 414),
        ("POST /v1/search HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 5000", "[" * 5000, 413),
        ("POST /v1/search HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 4000", "[" * 4000, 400),
        ("POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 79",
         "--b\r\nContent-Disposition: form-data; name=a; filename*=undefined''x\r\n\r\nx\r\n--b--", 200),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_head_is_said(host: ServiceHost, head: str, body: str, status: int) -> None:
    host.start(OLD)
    answer = raw(host.port, f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
    assert b"x-content-type-options: nosniff" in answer
    assert (b"application/problem+json" in answer) == (status != 200)


def test_only_holders_of_a_token_see_paths_and_a_tokens_file_that_others_can_write_is_a_warning(
    host: ServiceHost, tmp_path: Path
) -> None:
    token, file = new_token(), tmp_path / "tokens"
    file.write_text(f"{line_for('ada', token)}\n")
    instance = host.start(OLD, tokens=str(file))
    assert instance.health["warnings"] == []
    file.chmod(0o666)
    words = "The tokens file {} has mode 0666: others than its owner can add tokens to it."
    assert instance.health["warnings"] == [words.format("tokens")]
    shown = instance.client.get("/health", headers={"Authorization": f"Bearer {token}"}).json()
    assert (shown["status"], shown["warnings"]) == ("warn", [words.format(file)])


def test_more_requests_than_allowed_get_503_with_retry_after(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    instance = host.start(OLD, max_in_flight="1", index=str(index), writes="open")
    body = (GOLDEN / "camera-grey.png").read_bytes()
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as database, host.client() as client:
        database.execute("BEGIN IMMEDIATE")
        waiting = instance.raw(
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        instance.wait_until(lambda health: health["checks"]["requests:inFlight"][0]["observedValue"] == 1, "/health")
        refused = client.post("/v1/hash", content=body)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        database.execute("ROLLBACK")
        assert waiting.recv(4096).startswith(b"HTTP/1.1 201 Created")
        assert client.post("/v1/hash", content=body).status_code == 200
