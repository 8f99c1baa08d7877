"""Runs every scenario of Molecule as a person types it, on one lab that `default` makes and destroys."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Each scenario's folder of state begins empty: Molecule takes what an earlier run had prepared for done.
STATE = CHECKOUT / ".cache" / "molecule" / "state"
SCENARIOS = sorted(path.parent.name for path in (CHECKOUT / "molecule").glob("*/molecule.yml"))
LONG_SCENARIOS = ("end_to_end",)  # what promote and rollback prove one by one
TIME_LIMIT = 900  # seconds
HOST_RAN = re.compile(r"^(lab\d+|localhost) +: ok=[1-9]", re.MULTILINE)
SEQUENCE = re.compile(r"scenario test matrix: (.+)$", re.MULTILINE)

pytestmark = pytest.mark.lab


def molecule(command: str, scenario: str, *options: str) -> tuple[int, str]:
    """Run `molecule COMMAND`; gives its exit code and all it said."""
    # `timeout` ends the whole group: Ansible and its workers would keep the pipe open after Molecule's death
    done = subprocess.run(
        ["timeout", "--kill-after=10", str(TIME_LIMIT), "molecule", command, "--scenario-name", scenario, *options],
        cwd=CHECKOUT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "MOLECULE_GLOB": "molecule/*/molecule.yml",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(STATE / scenario),
            "ANSIBLE_HOME": str(CHECKOUT / ".cache" / "molecule" / "ansible"),
            "NO_COLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def what_ran(output: str) -> dict[str, set[str]]:
    """For each step that Molecule began, the hosts on which a task ran: it calls a step without any successful, too."""
    steps = re.split(r"^INFO +\[\S+ > (\w+)\] Executing$", output, flags=re.MULTILINE)[1:]
    return {name: set(HOST_RAN.findall(text)) for name, text in zip(steps[::2], steps[1::2], strict=True)}


def lab_runs() -> bool:
    status = [str(BIN / "mobius"), "lab", "status"]
    return subprocess.run(status, cwd=CHECKOUT, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """The lab's hosts and the bundles, made by the scenario `default` and removed by it."""
    shutil.rmtree(STATE, ignore_errors=True)
    # hosts that somebody used before are no fresh ones
    code, output = molecule("destroy", "default")
    assert code == 0, output
    code, output = molecule("create", "default")
    assert code == 0, output
    assert what_ran(output) == {"create": {"localhost"}}, output
    assert lab_runs()
    yield
    code, output = molecule("destroy", "default")
    assert code == 0, output
    assert not lab_runs()
    assert not (CHECKOUT / ".lab").exists()


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(name, marks=[pytest.mark.soak] if name in LONG_SCENARIOS else [])
        for name in SCENARIOS
        if name != "default"
    ],
)
def test_a_scenario_passes_and_every_one_of_its_steps_ran_somewhere(scenario: str) -> None:
    # the lab is there already, and stays for the next; a failed scenario's hosts are made anew all the same
    code, output = molecule("test", scenario, "--no-shared-state")
    assert code == 0, output
    named = SEQUENCE.search(output)
    assert named is not None, output
    ran = what_ran(output)
    assert list(ran) == named[1].split(", "), output
    assert ran.pop("cleanup") == {"localhost"}, output
    assert all(any(host.startswith("lab") for host in hosts) for hosts in ran.values()), output


def test_a_step_that_matched_no_host_does_not_count_as_one_that_ran() -> None:
    said = """\
INFO     [host > prepare] Executing
lab3                       : ok=4    changed=1    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
INFO     [host > prepare] Executed: Successful
INFO     [host > converge] Executing
PLAY RECAP *********************************************************************
INFO     [host > converge] Executed: Successful
"""
    assert what_ran(said) == {"prepare": {"lab3"}, "converge": set()}
