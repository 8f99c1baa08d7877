# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings what a gate has seen so far from its host to the `mobius` that runs it, while the gate is still looking.

A module answers once, at its end. So the gate writes each sample into a file on its host, the action plugin reads that
file now and then, and lays it into the run's private folder, from where the run takes it. None of it decides anything:
what cannot be read is not shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_EVERY = 2.0  # seconds between two looks at a host
_ENDING = 15.0  # seconds that a look under way may take when the gate has ended
_FOLDER = "gates"


@contextmanager
def following(run_folder: str, host: str, look: Callable[[], str | None]) -> Iterator[None]:
    """Publish what `look` gives, a JSON object, every two seconds until the block ends.

    Args:
        look: what the gate has written; None when there is nothing yet. It is called in a thread, and must not raise.
    """
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(_EVERY):
            if (said := look()) is not None and not ended.is_set():
                _publish(Path(run_folder), host, said)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_ENDING)


def _publish(run_folder: Path, host: str, said: str) -> None:
    folder = run_folder / _FOLDER
    place = folder / f"{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"
    try:
        folder.mkdir(exist_ok=True)
        whole = json.dumps({**json.loads(said), "host": host})
        place.with_suffix(".new").write_text(whole, encoding="utf-8")
        place.with_suffix(".new").replace(place)
    except (OSError, ValueError, TypeError):
        return


class Samples:
    """What was published in a run's private folder, as events for its progress."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / _FOLDER
        self._seen: dict[str, int] = {}

    def new(self) -> list[Mapping[str, Any]]:
        """One event for each host whose gate has told something new since the last call."""
        found: list[Mapping[str, Any]] = []
        try:
            places = sorted(self._folder.glob("*.json"))
        except OSError:
            return found
        for place in places:
            try:
                written = os.stat(place).st_mtime_ns
                if self._seen.get(place.name) == written:
                    continue
                self._seen[place.name] = written
                data = json.loads(place.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            at = datetime.fromtimestamp(written / 1e9, UTC).isoformat()
            found.append({"event": "gate_sample", "created": at, "event_data": data})
        return found
