# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of backups share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import prepare_host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A prepared host on which a release serves, with a library of two pictures and an index in WAL mode."""
    # a socket's path has 107 characters at most, and that of `tmp_path` may be long
    with tempfile.TemporaryDirectory(prefix="mobius-") as run_dir:
        yield prepare_host(tmp_path, Path(run_dir))
