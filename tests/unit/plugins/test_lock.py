"""Waiting for the end of a command: `mobius-host unavailable`, whose unit starts the service again after it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.host import lock
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import notify_ready


class LockedHost:
    """What has a lock."""

    def __init__(self, lock_path: Path) -> None:
        self.lock_path = lock_path


def test_it_waits_for_as_long_as_the_lock_is_held_and_holds_nobody_up(tmp_path: Path) -> None:
    host: Any = LockedHost(tmp_path / "lock")
    begun = threading.Event()
    with durable.locked(host.lock_path):
        waiting = threading.Thread(target=lock.wait_until_unlocked, args=(host, begun.set))
        waiting.start()
        assert begun.wait(10)
        waiting.join(3 * lock.LOCK_POLL_SECONDS)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    with durable.locked(host.lock_path, timeout=0):
        pass


def test_without_systemd_nobody_is_notified(monkeypatch: Any) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_ready()
