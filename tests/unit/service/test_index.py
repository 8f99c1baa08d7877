# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The library of an instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.dhash import MAX_PIXELS, Library
from mobius.service.index import Index
from tests.unit.dhash.test_verifier import copies


@pytest.mark.slow
def test_a_library_is_counted_even_when_verified_pairs_cannot_be_stored(tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(copies(tmp_path / "library", 2))
    index = Index(tmp_path / "index.sqlite", "1.0.0-aaaaaaaaaaaa", max_pixels=MAX_PIXELS)
    index.verifies_pairs = True
    index.library()._database._writer.execute("PRAGMA query_only=1")
    index._count()
    assert index.figures["pictures"] == 6
    index.library()._database._writer.execute("PRAGMA query_only=0")
    pairs_to_review = index.figures["review"]
    index._count()
    assert index.figures["review"] < pairs_to_review, "a verified pair needs no review"
    assert not index.close()
    index.library().close()
