"""One systemd host of a lab of its own, with `shop.py` behind a front: a server that knows nothing of MOBIUS.

Everything is real: podman, SSH, Ansible, apt, systemd, HAProxy, the role, the modules and the installed `mobius-host`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import CHECKOUT, Machine, lab_machine

COLLECTIONS = str(CHECKOUT / ".ansible/collections")
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

GUNICORN_PORT = 8081
VARIABLES = {
    "mobius_service": "shop",
    "host_kind": "http",
    "host_exec": "/usr/bin/python3 shop.py {host} {port}",
    "host_health_path": "/healthz",
    "host_start_timeout": 10,
    "host_drain_deadline": 5,
    "host_watch_seconds": 0,
}


PROGRAM = Path(__file__).with_name("shop.py")


@pytest.fixture(scope="package")
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A fresh Debian host without HAProxy; nothing is provisioned yet."""
    root = tmp_path_factory.mktemp("front")
    with lab_machine(root, "shop", VARIABLES, "--publish", str(GUNICORN_PORT)) as machine:
        yield machine


@pytest.fixture(scope="package")
def provisioned(bare_machine: Machine) -> Machine:
    """The host, provisioned for the shop; nothing is staged."""
    done = bare_machine.playbook("provision")
    assert done.returncode == 0, done.stdout
    return bare_machine


@pytest.fixture(scope="package")
def machine(provisioned: Machine) -> Machine:
    """The host with releases staged."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        provisioned.stage_program(PROGRAM, version)
    provisioned.stage_program(PROGRAM, "2.0.0", crash=True)
    provisioned.stage_program(PROGRAM, "2.1.0", slow_start=3600)
    return provisioned
