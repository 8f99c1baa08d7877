"""One systemd host of a lab of its own, with `stand_in.py` behind a front: a server that knows nothing of MOBIUS.

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
    "mobius_service": "stand-in",
    "host_exec": "/usr/bin/python3 stand_in.py",
    "host_health_path": "/well",
    "host_start_timeout": 10,
    "host_drain_deadline": 3,
    # what is watched says so: test_watching.py
    "host_watch_seconds": 0,
}


PROGRAM = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="package")
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A fresh Debian host without HAProxy; nothing is provisioned yet."""
    root = tmp_path_factory.mktemp("switch")
    with lab_machine(root, "stand-in", VARIABLES, "--publish", str(GUNICORN_PORT)) as machine:
        yield machine


@pytest.fixture(scope="package")
def provisioned(bare_machine: Machine) -> Machine:
    """The host, provisioned for the stand-in; nothing is staged."""
    done = bare_machine.playbook("provision")
    assert done.returncode == 0, done.stdout
    return bare_machine


@pytest.fixture(scope="package")
def machine(provisioned: Machine) -> Machine:
    """The host with releases staged. 1.1.0 dies of SIGTERM at once, as most servers do; the others finish requests."""
    provisioned.stage_program(PROGRAM, "1.0.0")
    provisioned.stage_program(PROGRAM, "1.1.0", abrupt=True)
    provisioned.stage_program(PROGRAM, "1.2.0")
    provisioned.stage_program(PROGRAM, "2.0.0", crash=True)
    provisioned.stage_program(PROGRAM, "2.1.0", hang_after=4)
    provisioned.stage_program(PROGRAM, "2.2.0", slow_start=3600)
    provisioned.stage_program(PROGRAM, "3.0.0", unwell_after=4)
    provisioned.stage_program(PROGRAM, "3.1.0", fail_every=20)
    provisioned.stage_program(PROGRAM, "3.2.0", slow=0.2)
    provisioned.stage_program(PROGRAM, "3.3.0", leak=4 << 20)
    return provisioned
