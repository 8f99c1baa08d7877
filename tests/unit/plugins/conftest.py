"""Lets tests import the collection the way Ansible does, through the link in `.ansible`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.module_utils import _internal
from ansible.module_utils.common import warnings

CHECKOUT = Path(__file__).resolve().parents[3]
COLLECTIONS = str(CHECKOUT / ".ansible" / "collections")

for path in (COLLECTIONS, str(Path(__file__).parent)):  # the second: tests of restores begin with backups
    if path not in sys.path:
        sys.path.insert(0, path)


@pytest.fixture(autouse=True)
def module_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test the state of a module's own process on a host: no controller, and no warning so far."""
    monkeypatch.setattr(_internal, "is_controller", False)
    monkeypatch.setattr(warnings, "_global_warnings", {})
