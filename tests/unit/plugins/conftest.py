"""Lets tests import the collection the way Ansible does, through the link that `make setup` makes."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
COLLECTIONS = str(CHECKOUT / ".ansible" / "collections")

for place in (COLLECTIONS, str(Path(__file__).parent)):  # the second: tests of restores begin with backups
    if place not in sys.path:
        sys.path.insert(0, place)
