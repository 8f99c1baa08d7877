"""A backup that comes back under a service that runs, with clients that send all the time."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.switch.conftest import CHECKOUT, VARIABLES

DATABASE = "/var/lib/stand-in/index/notes.sqlite3"
WRITES = {"database": "index/notes.sqlite3", "query": "SELECT count(*) FROM notes WHERE at >= :since"}


def sql(machine: Any, statement: str) -> str:
    script = (
        f"import sqlite3; d = sqlite3.connect('{DATABASE}'); print(d.execute(\"{statement}\").fetchall()); d.commit()"
    )
    return str(machine.shell(f"python3 - <<'END'\n{script}\nEND").stdout.strip())


def main_process(machine: Any) -> str:
    """The command that shows the process of the instance."""
    return f"systemctl show --property=MainPID stand-in@{machine.releases['1.0.0']}"


@pytest.fixture
def noted(machine: Any) -> Iterator[Any]:
    """The host, with a backup that holds two notes, and three later ones."""
    machine.serve_from("1.0.0")
    sql(machine, "CREATE TABLE notes (at TEXT)")
    sql(machine, "INSERT INTO notes VALUES ('2020-01-01T00:00:00Z'), ('2020-01-02T00:00:00Z')")
    machine.backup = machine.module("backup", scope="full")["id"]
    sql(
        machine, "INSERT INTO notes VALUES ('2999-01-01T00:00:00Z'), ('2999-01-02T00:00:00Z'), ('2999-01-03T00:00:00Z')"
    )
    yield machine
    machine.shell(f"rm -f {DATABASE}* /var/lib/stand-in/index/large /var/backups/stand-in/stand-in-*")


def test_clients_wait_while_the_data_is_restored_and_none_of_them_fails(noted: Any) -> None:
    predicted = noted.module("restore", "--check", id=noted.backup, writes=WRITES)
    before = noted.shell(main_process(noted)).stdout
    with noted.load() as load:
        done = noted.module("restore", id=noted.backup, writes=WRITES)
        noted.until(lambda: noted.answer() == noted.releases["1.0.0"])
    assert load.failures == []
    assert (set(load.statuses), set(load.answers)) == ({200}, {noted.releases["1.0.0"]}), load.statuses
    assert noted.shell(main_process(noted)).stdout != before, "no instance ran while the folders were exchanged"
    assert (predicted["changed"], predicted["lost"]) == (done["changed"], done["lost"]) == (True, 3)
    assert sql(noted, "SELECT count(*) FROM notes") == "[(2,)]"
    assert noted.states() == {"1.0.0": "serving"}
    noted.until(lambda: "inactive" in noted.shell("systemctl is-active stand-in-unavailable", check=False).stdout)
    assert done["saved"].endswith("-full")
    assert done["saved_state"].endswith("-state")
    assert noted.module("restore", id=done["saved_state"])["changed"]
    assert sql(noted, "SELECT count(*) FROM notes") == "[(5,)]"


def test_a_restore_that_is_killed_leaves_a_service_that_serves_and_clients_wait_for_it(noted: Any) -> None:
    # so that saving it takes a moment
    noted.shell("head -c 400M /dev/urandom > /var/lib/stand-in/index/large")
    is_active = f"systemctl is-active stand-in@{noted.releases['1.0.0']}"
    with noted.load(pause=0.02) as load:
        restoring = threading.Thread(target=lambda: noted.call_module("restore", id=noted.backup))
        restoring.start()
        noted.until(lambda: noted.shell(is_active, check=False).stdout == "inactive\n", seconds=60)
        noted.shell("kill -KILL $(lslocks -n -o PID,PATH | awk '/stand-in.activation.lock/ {print $1}')")
        restoring.join()
        noted.until(lambda: noted.answer() == noted.releases["1.0.0"])
    assert load.failures == []
    assert (set(load.statuses), set(load.answers)) == ({200}, {noted.releases["1.0.0"]}), load.statuses
    assert sql(noted, "SELECT count(*) FROM notes") == "[(5,)]", "it was killed before it exchanged anything"
    assert noted.states() == {"1.0.0": "serving"}
    assert noted.module("restore", id=noted.backup)["changed"]
    assert sql(noted, "SELECT count(*) FROM notes") == "[(2,)]"


def test_a_damaged_database_is_restored_under_load_and_the_damaged_state_is_kept_whole(noted: Any) -> None:
    noted.shell(f"dd if=/dev/zero of={DATABASE} bs=100 count=1 conv=notrunc; echo torn > {DATABASE}-wal")
    before = noted.shell(f"sha256sum {DATABASE} {DATABASE}-wal").stdout.split()[::2]
    predicted = noted.module("restore", "--check", id=noted.backup, writes=WRITES)
    refused = noted.module("restore", id=noted.backup, writes=WRITES)
    assert "cannot be counted: the live data is damaged" in refused["mobius_failure"]["reason"]
    with noted.load() as load:
        done = noted.module("restore", id=noted.backup, writes=WRITES, accept_damage=True)
        noted.until(lambda: noted.answer() == noted.releases["1.0.0"])
    assert load.failures == []
    assert (set(load.statuses), set(load.answers)) == ({200}, {noted.releases["1.0.0"]}), load.statuses
    assert (predicted["lost"], predicted["lost_unknown"]) == (done["lost"], done["lost_unknown"])
    assert (done["lost"], done["saved"], done["saved_state"]) == (None, "", "")
    assert sql(noted, "SELECT count(*) FROM notes") == "[(2,)]"
    assert noted.states() == {"1.0.0": "serving"}
    aside = f"{done['kept_aside'][0]}/index/notes.sqlite3"
    assert noted.shell(f"sha256sum {aside} {aside}-wal").stdout.split()[::2] == before
    noted.shell(f"rm -rf {' '.join(done['kept_aside'])}")


AGREE_TO_LOSS = """
- hosts: mobius
  gather_facts: false
  tasks:
    - mobius.dhash.run:
    - ansible.builtin.include_tasks: {checkout}/playbooks/tasks/agree_to_loss.yml
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_check_run_names_the_loss_that_the_run_would_be_refused_for(noted: Any, damaged: bool) -> None:
    play = noted.root / "agree_to_loss.yml"
    play.write_text(AGREE_TO_LOSS.format(checkout=CHECKOUT))
    needed = {"mobius_backup": noted.backup, "backup_writes": WRITES}

    def agree(*arguments: str, consent: bool = False) -> subprocess.CompletedProcess[str]:
        variables = json.dumps({**VARIABLES, **needed, "mobius_accept_loss": consent})
        command = [noted.ansible_playbook, "-i", noted.inventory, play, "-e", variables]
        return noted.call(*command, *arguments, check=False)

    if damaged:
        noted.shell(f"dd if=/dev/zero of={DATABASE} bs=100 count=1 conv=notrunc")
    reason = f"{'An unknown number of' if damaged else '3'} writes on lab1 are later than the backup {noted.backup}"
    refused = agree()
    assert refused.returncode == 2, refused.stdout
    assert reason in refused.stdout
    predicted = agree("--check")
    assert predicted.returncode == 0, predicted.stdout
    assert f"The run itself would be refused now: {reason}" in predicted.stdout
    agreed = agree(consent=True)
    assert agreed.returncode == 0, agreed.stdout
    assert reason not in agreed.stdout


@pytest.mark.soak
def test_a_drill_judges_by_the_health_path_and_the_probes_and_disturbs_nothing(noted: Any) -> None:
    with noted.load(kept=4, single=1, pause=0.02) as load:
        drilled = noted.module("restore_drill", probes=[{"name": "front page", "path": "/"}])
        assert drilled.get("release") == noted.releases["1.0.0"], drilled
        failed = noted.module("restore_drill", probes=[{"name": "none", "path": "/", "status": 404}])
        assert failed["mobius_failure"]["outcome"] == "drill_failed"
    assert load.failures == []
    assert (set(load.statuses), set(load.answers)) == ({200}, {noted.releases["1.0.0"]}), load.statuses
    assert noted.states() == {"1.0.0": "serving"}
    assert noted.shell("systemctl list-units --all --no-legend 'stand-in-drill*'").stdout == ""
