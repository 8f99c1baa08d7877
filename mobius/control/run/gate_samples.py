# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings a gate's samples from its host to the `mobius` that runs it, while the gate still observes.

A module answers once, at its end. So the gate writes each sample into a file on its host; the action plugin reads that
file every two seconds and puts it into the run's workspace, from where the run takes it. Nothing is decided by it: what
cannot be read is not shown.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from mobius.control.run.workspace import RunWorkspace

_POLL_SECONDS = 2.0  # between two reads of a host's file
_LAST_READ_SECONDS = 15.0  # that a read under way may take when the gate has ended


@contextmanager
def forward_samples(workspace: RunWorkspace, host: str, read: Callable[[], str | None]) -> Iterator[None]:
    """Publish what `read` gives, a JSON object, every two seconds until the block ends.

    Args:
        read: what the gate has written; None when there is nothing yet. It is called in a thread, and must not raise.
    """
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(_POLL_SECONDS):
            if (text := read()) is not None and not ended.is_set():
                with suppress(OSError, ValueError, TypeError):
                    workspace.publish_sample(host, json.loads(text))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LAST_READ_SECONDS)


class SampleEvents:
    """What was published in a run's workspace, as events for its progress."""

    def __init__(self, workspace: RunWorkspace) -> None:
        self._workspace = workspace
        self._read_before: dict[str, int] = {}

    def new(self) -> list[Mapping[str, Any]]:
        """One event for each host whose gate has a new sample since the last call."""
        return [
            {
                "event": "gate_sample",
                "created": datetime.fromtimestamp(written / 1e9, UTC).isoformat(),
                "event_data": sample,
            }
            for written, sample in self._workspace.read_new_samples(self._read_before)
        ]
