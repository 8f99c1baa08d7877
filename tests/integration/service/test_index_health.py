# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index that is lost, damaged or locked under a running instance: health says so, and nothing goes astray."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.service.conftest import wait_until
from tests.integration.service.samples import GOLDEN, noisy

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
GOOD = (GOLDEN / "camera-grey.png").read_bytes()


def truncate(index: Path) -> None:
    os.truncate(index, 0)


def cut_in_half(index: Path) -> None:
    with contextlib.closing(sqlite3.connect(index)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(index, index.stat().st_size // 2 // 4096 * 4096)


def rename(index: Path) -> None:
    index.rename(index.with_suffix(".away"))


def exchange(index: Path) -> None:
    other = index.with_suffix(".other")
    other.write_bytes(index.read_bytes())
    other.replace(index)


def remove_log(index: Path) -> None:
    Path(f"{index}-wal").unlink()


def start(host: ServiceHost, index: Path) -> RunningInstance:
    instance = host.start(RELEASE, index=str(index), writes="open")
    for seed in range(20):
        assert instance.client.post("/v1/images", content=noisy(seed)).status_code == 201
    assert instance.health["status"] == "pass", instance.health
    return instance


@pytest.mark.parametrize(
    ("lose", "words"),
    [
        (truncate, "index.sqlite was truncated to 0 bytes"),
        (cut_in_half, "was truncated"),
        (rename, "index.sqlite was removed or renamed"),
        (exchange, "index.sqlite was exchanged"),
        (remove_log, "index.sqlite-wal was removed or renamed"),
    ],
)
def test_health_says_how_the_index_was_lost_and_requests_get_503(
    host: ServiceHost, tmp_path: Path, lose: Callable[[Path], None], words: str
) -> None:
    index = tmp_path / "index.sqlite"
    instance = start(host, index)
    lose(index)
    answer = instance.client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "fail")
    assert words in " ".join(answer.json()["warnings"]), answer.json()["warnings"]
    assert instance.client.get("/readyz").status_code == 503
    assert instance.client.get("/livez").status_code == 200
    assert instance.client.post("/v1/hash", content=GOOD).status_code == 200


@pytest.mark.parametrize("lose", [truncate, rename, exchange, remove_log])
def test_nothing_is_written_into_an_index_that_has_lost_its_name(
    host: ServiceHost, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    index = tmp_path / "index.sqlite"
    instance = start(host, index)
    lose(index)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
    requests = [("POST", "/v1/images", noisy(99)), ("POST", "/v1/search", GOOD), ("GET", "/v1/duplicates", b"")]
    for method, path, body in requests:
        answer = instance.client.request(method, path, content=body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "index" in answer.json()["detail"]
    assert {path: path.read_bytes() for path in before} == before


def test_an_index_that_comes_back_is_used_again(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    instance = start(host, index)
    rename(index)
    assert instance.health["status"] == "fail"
    index.with_suffix(".away").rename(index)
    assert instance.health["status"] == "pass"
    assert instance.client.post("/v1/images", content=noisy(99)).status_code == 201


def test_a_held_write_lock_delays_writers_only_and_health_warns(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    instance = start(host, index)
    statuses: list[int] = []

    def post(seed: int) -> None:
        with host.client() as client:
            client.timeout = 120
            statuses.append(client.post("/v1/images", content=noisy(seed)).status_code)

    writers = [threading.Thread(target=post, args=(seed,)) for seed in range(100, 108)]
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        for writer in writers:
            writer.start()
        wait_until(lambda: instance.metric("mobius_requests_in_flight") == len(writers))
        for _ in range(20):
            assert instance.client.post("/v1/search", content=noisy(3)).json()["matches"][0]["distance"] == 0
            assert instance.client.get("/v1/duplicates").status_code == 200
        wait_until(lambda: instance.health["status"] == "warn")
        answer = instance.client.get("/health")
        assert answer.status_code == 200
        assert "has locked the index" in answer.json()["warnings"][0]
        database.execute("ROLLBACK")
    for writer in writers:
        writer.join()
    assert set(statuses) <= {201, 503}
    assert statuses.count(201) >= 1
    wait_until(lambda: instance.health["status"] == "pass")
