"""Lets tests import the collection the way Ansible does, through the link in `.ansible`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible" / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)


@pytest.fixture
def description(tmp_path: Path) -> dict[str, Any]:
    """The settings that a front cannot do without, as the host's description has them."""
    return {
        "service": "shop",
        "run_dir": str(tmp_path),
        "port": 8000,
        "first_port": 9101,
        "internal_port": 9100,
        "health_path": "/healthz",
    }
