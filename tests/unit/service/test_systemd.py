# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""sd_notify and the descriptor, apart from a whole process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mobius.service.systemd import Notifier, inherited_socket


def test_without_systemd_nothing_is_said_and_nothing_is_taken() -> None:
    notifier = Notifier({})
    notifier.send("READY=1")
    assert notifier.watchdog_seconds is None
    assert inherited_socket({}) is None


def test_another_processes_descriptor_is_left_alone_and_its_variables_go() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert inherited_socket(environment) is None
    assert environment == {"HOME": "/"}


def test_messages_reach_the_manager_and_a_manager_that_is_gone_is_survived(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        notifier = Notifier(environment)
        assert environment == {}, "children must not speak in our name"
        assert notifier.watchdog_seconds == 30
        notifier.send("READY=1")
        assert manager.recv(100) == b"READY=1"
    notifier.send("WATCHDOG=1")
    assert Notifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_seconds is None


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0mobius-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@mobius-test-{os.getpid()}"}).send("READY=1")
        assert manager.recv(100) == b"READY=1"
