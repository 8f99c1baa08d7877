"""One systemd host of a lab of its own, with a second service on it: `stand_in.py`, which knows nothing of MOBIUS.

Everything is real: podman, SSH, Ansible, systemd, the role, the modules and the installed `mobius-host`.
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

VARIABLES = {
    "mobius_service": "stand-in",
    "host_exec": "/usr/bin/python3 -m stand_in",
    "host_health_path": "/well",
    "host_start_timeout": 10,
    "host_drain_deadline": 3,
    # what is watched says so: test_watching.py
    "host_watch_seconds": 0,
}


PROGRAM = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="package")
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A fresh Debian host; nothing is provisioned yet."""
    with lab_machine(tmp_path_factory.mktemp("switch"), "stand-in", VARIABLES) as machine:
        yield machine


@pytest.fixture(scope="package")
def machine(bare_machine: Machine) -> Machine:
    """The host, provisioned for the stand-in, with releases staged and the first one serving."""
    done = bare_machine.playbook("provision")
    assert done.returncode == 0, done.stdout
    bare_machine.stage_program(PROGRAM, "1.0.0")
    bare_machine.stage_program(PROGRAM, "1.1.0")
    bare_machine.stage_program(PROGRAM, "1.2.0")
    bare_machine.stage_program(PROGRAM, "2.0.0", crash=True)
    bare_machine.stage_program(PROGRAM, "2.1.0", admin_silent_after=4)
    bare_machine.stage_program(PROGRAM, "3.0.0", unwell_after=4)
    bare_machine.stage_program(PROGRAM, "3.1.0", fail_every=20)
    bare_machine.stage_program(PROGRAM, "3.2.0", slow=0.2)
    bare_machine.stage_program(PROGRAM, "3.3.0", leak=4 << 20)
    return bare_machine
