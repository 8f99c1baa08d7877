# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Libraries for tests: made-up pictures for indexes, and small real ones for scans."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from mobius.dhash import Dhash, Fingerprint, Library, hash_bytes
from mobius.dhash._descriptor import DCT_BYTES, DESCRIPTOR_BYTES
from mobius.dhash._reranking import CANDIDATE
from mobius.dhash._verification import VERIFICATION_RULE

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="about /proc, terminals, or names of any bytes")
posix_only = pytest.mark.skipif(os.name != "posix", reason="about links, modes, or pipes")


def descriptor(seed: int) -> bytes:
    """A descriptor with enough contrast and detail for a candidate; those of other seeds are unlike it."""
    data = numpy.random.default_rng(seed).integers(0, 256, DESCRIPTOR_BYTES, numpy.uint8)
    brighter, darker = data[DCT_BYTES:-1].reshape(2, -1)
    darker &= ~brighter
    data[0] = 200
    return data.tobytes()


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def fingerprint(name: object, rows: int, seed: int = 0, *, width: int = 100, columns: int = 0) -> Fingerprint:
    """An invented picture: its hash, and by `seed` its descriptor."""
    return Fingerprint(
        Dhash(rows, columns, "fast-1"), width, 100, "JPEG", digest(name), 1000, grids=(bytes(72), bytes(72)),
        descriptor=descriptor(seed),
    )  # fmt: skip


def entry(
    name: object, rows: int, seed: int = 0, *, width: int = 100, path: str | None = None, modified: int = 0
) -> dict[str, Any]:
    """An image as an export has it, at a path that need not exist."""
    return {
        "path": path or f"/library/{name}.jpg", "sha256": digest(name), "dhash": f"{rows:016x}",
        "dhash_vertical": f"{0:016x}", "algorithm": "fast-1", "width": width, "height": 100, "format": "JPEG",
        "size": 1000, "release": "test", "confidence": "confident", "modified_ns": modified, "posted": False,
        "look": descriptor(seed).hex(), "warnings": [],
    }  # fmt: skip


def fill(library: Library, entries: Sequence[dict[str, Any]]) -> None:
    library.import_(io.StringIO(json.dumps(list(entries))))


def mark_verified(library: Library) -> Library:
    """Store a positive verdict on every candidate pair, as these pictures have no pixels to verify."""
    edges = library._candidates.pairs()
    pairs = zip(edges.first.tolist(), edges.second.tolist(), edges.verdict.tolist(), strict=True)
    rows = [(one, other, VERIFICATION_RULE) for one, other, verdict in pairs if verdict == CANDIDATE]
    with library._database.writing() as connection:
        connection.executemany("INSERT OR IGNORE INTO proofs VALUES (?, ?, ?, 1, 'test')", rows)
    return library


def exported(library: Library) -> list[dict[str, Any]]:
    stream = io.StringIO()
    library.export(stream)
    answer: list[dict[str, Any]] = json.loads(stream.getvalue())
    return answer


def picture(seed: int, side: int = 96, form: str = "JPEG") -> bytes:
    """An encoded picture of soft random shapes, each seed its own."""
    coarse = numpy.random.default_rng(seed).integers(0, 256, (9, 9, 3), numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def posted(seed: int) -> Fingerprint:
    return hash_bytes(picture(seed), descriptor=True)


def make_folder(root: Path, count: int) -> Path:
    """A folder of `count` small pictures, a tenth of them copies, and one file that is none."""
    root.mkdir(parents=True)
    for number in range(count):
        below = root / f"{number % 7}"
        below.mkdir(exist_ok=True)
        (below / f"{number:04}.jpg").write_bytes(picture(number // 10 * 10 if number % 10 == 9 else number))
    (root / "broken.png").write_bytes(picture(1, form="PNG")[:300])
    return root
