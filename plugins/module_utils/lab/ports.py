# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Chooses the ports on 127.0.0.1 that lead to the lab's hosts. Standard library only."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

# Below what Linux gives to outgoing connections (32768 and up), which could otherwise take a stopped host's port.
FIRST_PORT = 20000
PORTS_PER_BLOCK = 24
PORT_BLOCKS = 500


class PortAllocator:
    """Chooses free ports on 127.0.0.1: the same ones each time, unless another program uses them.

    Args:
        lab: the lab's id. It decides at which port the search begins, so that two labs seldom compete for a port.
        reserved: ports that are never chosen: those of other labs' hosts, which may be stopped at the moment.
        is_free: tells whether a port can be listened on.
    """

    def __init__(self, lab: str, reserved: Iterable[int], is_free: Callable[[int], bool]) -> None:
        self._next = FIRST_PORT + int(lab, 16) % PORT_BLOCKS * PORTS_PER_BLOCK
        self._claimed = set(reserved)
        self._is_free = is_free

    def keep(self, port: int, *, held: bool) -> bool:
        """Claim the port that a host had; False when another program uses it. `held`: the host itself uses it."""
        if port in self._claimed or not (held or self._is_free(port)):
            return False
        self._claimed.add(port)
        return True

    def pick(self) -> int:
        """Claim the next free port."""
        last = FIRST_PORT + PORT_BLOCKS * PORTS_PER_BLOCK
        for step in range(PORT_BLOCKS * PORTS_PER_BLOCK):
            port = self._next + step
            port = port if port < last else port - PORT_BLOCKS * PORTS_PER_BLOCK
            if self.keep(port, held=False):
                return port
        raise MobiusError("environment_failed", f"No port from {FIRST_PORT} to {last - 1} is free on 127.0.0.1.")


def port_is_free(port: int) -> bool:
    """Whether a program could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
