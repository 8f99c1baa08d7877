"""Lets these tests import the collection the way Ansible does, through the link that `make setup` makes."""

from __future__ import annotations

import sys
from pathlib import Path

COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible" / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)
