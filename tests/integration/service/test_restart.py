# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service that was killed answers as before, from what it kept."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mobius.dhash import Library
from mobius.dhash._pair_store import MIN_PICTURES
from tests.integration.service.conftest import wait_until
from tests.unit.dhash.library_tools import descriptor

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"


def make_library(path: Path) -> None:
    """Pictures that need not exist: every tenth has a copy that somebody decided to be one."""
    Library(path).close()
    chance = random.Random(1)
    words = [(chance.getrandbits(63), chance.getrandbits(63)) for _ in range(MIN_PICTURES)]
    words += words[::10]
    looks = [descriptor(seed) for seed in range(10)]
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(len(words))]
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, posted, release,"
            " written_at) VALUES (?, 1, 'fast-2', ?, ?, ?, 9, 9, 'JPEG', 1, 'test', '2026-01-01T00:00:00+00:00')",
            ((one, *word, looks[word[0] % 10]) for one, word in zip(digests, words, strict=True)),
        )
        pairs = zip(digests[::10], digests[MIN_PICTURES:], strict=False)
        database.executemany(
            "INSERT INTO decisions VALUES (?, ?, 'same', 'Ada', '')", (tuple(sorted(pair)) for pair in pairs)
        )


def page(instance: RunningInstance) -> Any:
    answer = instance.client.get("/v1/duplicates?limit=500")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
def test_a_restart_uses_the_pairs_that_were_kept(host: ServiceHost, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    make_library(index)
    kept = Path(f"{index}-pairs")
    first = host.start(RELEASE, index=str(index), writes="open")
    wait_until(kept.exists)
    before, written = page(first), kept.stat().st_mtime_ns
    assert len(before["groups"]) == MIN_PICTURES // 10
    first.process.kill()
    first.process.wait()
    second = host.start(RELEASE, index=str(index), writes="open")
    assert page(second) == before
    gone = before["groups"][0]["others"][0]["image"]["sha256"]
    assert second.client.delete(f"/v1/images/{gone}").status_code == 204
    assert page(second)["groups"] == before["groups"][1:]
    second.process.kill()
    second.process.wait()
    third = host.start(RELEASE, index=str(index), writes="open")
    assert page(third)["groups"] == before["groups"][1:]
    assert kept.stat().st_mtime_ns == written, "nothing was compared as a whole again"
