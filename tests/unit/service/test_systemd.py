# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""sd_notify, without a service process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mobius.service.systemd import SystemdNotifier


def test_without_systemd_nothing_is_sent() -> None:
    notifier = SystemdNotifier({})
    notifier.send("READY=1")
    assert notifier.watchdog_seconds is None


def test_messages_reach_the_manager_and_a_missing_manager_does_no_harm(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = SystemdNotifier(environment)
        assert environment == {}, "children must not notify for this process"
        assert notifier.watchdog_seconds == 30
        notifier.send("READY=1")
        assert manager.recv(100) == b"READY=1"
    notifier.send("WATCHDOG=1")
    assert SystemdNotifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_seconds is None


def test_an_abstract_address_is_supported() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0mobius-test-{os.getpid()}")
        SystemdNotifier({"NOTIFY_SOCKET": f"@mobius-test-{os.getpid()}"}).send("READY=1")
        assert manager.recv(100) == b"READY=1"
