# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet of four systemd hosts with the stand-in service on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet

HOSTS = 4


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four fresh hosts, provisioned; MOBIUS_TEST_FLEET=DIR uses the lab that stands there already."""
    standing = os.environ.get("MOBIUS_TEST_FLEET")
    fleet = Fleet(Path(standing) if standing else tmp_path_factory.mktemp("fleet"))
    try:
        if not standing:
            fleet.lab("up", "--hosts", str(HOSTS))
        done = fleet.mobius("provision")
        assert done.code == 0, done.stderr
        yield fleet
    finally:
        if not standing:
            fleet.lab("down")


@pytest.fixture(scope="module")
def served(fleet: Fleet) -> str:
    """A release that serves on all hosts, which were fresh before."""
    fleet.fresh()
    path, release = fleet.bundle("1.0.0")
    done = fleet.release(path)
    assert done.code == 0, done.stderr
    return str(release)
