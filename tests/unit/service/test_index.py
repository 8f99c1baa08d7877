# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the service knows of its library."""

from __future__ import annotations

from pathlib import Path

from mobius.dhash import MAX_PIXELS, Library
from mobius.service.index import Index
from tests.unit.dhash.test_verifier import copies


def test_a_library_whose_verdicts_cannot_be_kept_is_counted_all_the_same(tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(copies(tmp_path / "library", 2))
    index = Index(tmp_path / "index.sqlite", "1.0.0-aaaaaaaaaaaa", max_pixels=MAX_PIXELS)
    index.proving = True
    index.library()._database._writer.execute("PRAGMA query_only=1")
    index._count()
    assert index.figures["pictures"] == 6
    index.library()._database._writer.execute("PRAGMA query_only=0")
    questions = index.figures["review"]
    index._count()
    assert index.figures["review"] < questions, "what is proven is no question any more"
    assert not index.close()
    index.library().close()
