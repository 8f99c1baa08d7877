"""A bundle of this checkout's commit, built once for all tests, for the Python that runs them."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from mobius import manifest
from mobius.control.bundle import builder as bundles

CHECKOUT = Path(__file__).resolve().parents[3]
COLLECTIONS = str(CHECKOUT / ".ansible" / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> manifest.Bundle:
    out = tmp_path_factory.mktemp("bundle")
    return bundles.build(CHECKOUT, out, version="1.0.0", python=running_python())


def running_python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
