# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run has the variables of the project's `mobius.yml`, and refuses those that no role has; also a plain ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobius.control.history.query import read_runs
from mobius.control.run.project import find_project
from tests.integration.runs.conftest import Runs

CHECKOUT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow

SERVICE = """\
service: shop
listen: 8000
exec: bin/serve --listen {address}
health: /healthz
environment: {SHOP_ENV: production}
hooks: {before_deploy: hooks/before_deploy.yml}
"""
PLAYBOOK = """
- hosts: mobius
  gather_facts: false
  tasks:
    - name: Load the settings
      ansible.builtin.import_role:
        name: mobius.dhash.settings
        public: true
        rolespec_validate: false
    - name: Open the run
      mobius.dhash.run:
        approval: false
        required: "{{ required | default(true) | bool }}"
    - name: Write what a role would see
      ansible.builtin.copy:
        content: "{{ seen | to_json }}"
        dest: "{{ inventory_dir }}/seen.json"
        mode: "0600"
      vars:
        seen:
          service: "{{ mobius_service }}"
          port: "{{ host_port | default(8080) }}"
          health: "{{ host_health_path | default('/health') }}"
          environment: "{{ host_environment | default({}) }}"
          hooks: "{{ mobius_hooks }}"
"""
HOSTS = """
mobius:
  hosts:
    here1: {ansible_connection: local}
  vars:
    ansible_python_interpreter: /usr/bin/python3
    mobius_history_dir: "{{ inventory_dir }}/history"
    mobius_witness_dir: "{{ inventory_dir }}/witness"
"""


class Shop:
    """A user's folder with a `mobius.yml` and an inventory of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventories/here"
        self.write("mobius.yml", SERVICE)
        self.write("inventories/here/hosts.yml", HOSTS)
        self.write("play.yml", PLAYBOOK)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def seen(self) -> dict[str, Any] | None:
        """What the play has seen; None when it came to no change."""
        path = self.inventory / "seen.json"
        return json.loads(path.read_text()) if path.exists() else None

    def ansible(self, *arguments: str, settings: Path = CHECKOUT / "ansible.cfg") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(settings), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "2000"}
        command = [str(BIN / "ansible-playbook"), *arguments, "play.yml"]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def plain(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.ansible("-i", "mobius.yml", "-i", "inventories/here", *arguments)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


EXPECTED = {"service": "shop", "port": 8000, "health": "/healthz", "environment": {"SHOP_ENV": "production"}}


def test_a_run_of_mobius_has_the_variables_and_names_its_inventory_alone(shop: Shop, run: Runs) -> None:
    summary = run.request(
        playbook=shop.folder / "play.yml", inventory=str(shop.inventory), project=find_project(named=shop.folder)
    )
    assert summary.ending.outcome == "success", (summary.ending, run.lines)
    assert shop.seen is not None
    assert EXPECTED.items() <= shop.seen.items()
    assert shop.seen["hooks"] == {"before_deploy": str(shop.folder / "hooks/before_deploy.yml")}
    (recorded,) = read_runs(shop.inventory / "history")
    assert recorded["inventory"] == "inventories/here"


@pytest.mark.parametrize(
    "name",
    [
        "inventories/here/group_vars/all.yml",
        "inventories/here/group_vars/mobius.yml",
        "inventories/here/host_vars/here1.yml",
    ],
)
def test_a_plain_ansible_playbook_has_them_too_and_the_inventory_wins(shop: Shop, name: str) -> None:
    shop.write(name, "host_health_path: /of-inventory\n")
    done = shop.plain("-e", "host_port=9000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert shop.seen is not None
    assert (shop.seen["service"], shop.seen["port"], shop.seen["health"]) == ("shop", "9000", "/of-inventory")


def test_the_variables_in_the_file_of_the_hosts_win(shop: Shop) -> None:
    shop.write("inventories/here/hosts.yml", f"{HOSTS}    host_port: 7000\nall: {{vars: {{host_health_path: /all}}}}\n")
    assert shop.plain().returncode == 0
    assert shop.seen is not None
    assert (shop.seen["port"], shop.seen["health"]) == (7000, "/all")


def test_a_wrong_file_ends_a_plain_ansible_playbook_with_its_line(shop: Shop) -> None:
    shop.write("mobius.yml", f"{SERVICE}helth: /x\n")
    done = shop.plain()
    assert done.returncode == 1
    assert f"{shop.folder}/mobius.yml:7: there is no key helth; the nearest known one is health." in done.stderr
    assert shop.seen is None


def test_a_file_that_ansible_cannot_read_as_one_is_refused(shop: Shop) -> None:
    settings = shop.write("ansible.cfg", f"[defaults]\ncollections_path = {CHECKOUT}/.ansible/collections\n"
                                         "callbacks_enabled = mobius.dhash.outcome\n")  # fmt: skip
    done = shop.ansible("-i", "mobius.yml", "-i", "inventories/here", settings=settings)
    assert done.returncode != 0
    assert "the inventory plugin mobius.dhash.service_file is not enabled" in done.stdout
    assert shop.seen is None


def mobius(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "mobius.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


COMMANDS = (
    ["provision"],
    ["plan", "provision.yml"],
    ["release"],
    ["deploy"],
    ["rollback"],
    ["status"],
    ["smoke"],
    ["backup", "create"],
    ["maintenance", "on"],
    ["decommission", "shop"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_reads_the_file_first(shop: Shop, command: list[str]) -> None:
    shop.write("mobius.yml", f"{SERVICE}lisen: 1\n")
    done = mobius(*command, "-i", "inventories/here", "--project", ".", cwd=shop.folder)
    assert done.returncode == 1
    assert "mobius.yml:7: there is no key lisen; the nearest known one is listen." in done.stderr


def test_the_current_folder_is_the_project_when_it_has_the_file(shop: Shop) -> None:
    shop.write("mobius.yml", f"{SERVICE}lisen: 1\n")
    assert "mobius.yml:7" in mobius("status", "-i", "inventories/here", cwd=shop.folder).stderr
    elsewhere = shop.folder / "inventories"
    done = mobius("status", "-i", str(shop.inventory), "--project", str(elsewhere), cwd=shop.folder)
    assert done.returncode == 1
    assert f"{elsewhere} has no mobius.yml." in done.stderr


# -- variables that no role has --


@pytest.fixture
def refused(shop: Shop) -> Callable[..., str]:
    def refuse(*arguments: str) -> str:
        done = shop.plain(*arguments)
        assert done.returncode != 0, done.stdout
        assert shop.seen is None
        assert not (shop.inventory / "history").exists()
        return done.stdout

    return refuse


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("host_prot=9090", "No role has the variable host_prot (-e); the nearest known one is host_port."),
        ('{"front_certificate": "/x"}', "front_certificate (-e); the nearest known one is host_front_certificate."),
        ("mobius_servce=x", "mobius_servce (-e); the nearest known one is mobius_service."),
        ("deploy_needed=true", "deploy_needed (-e)"),
        ("rollback_too=x", "rollback_too (-e); the nearest known one is rollback_to."),
        ("promote_canary_shares=5", "promote_canary_shares (-e); the nearest known one is promote_canary_share."),
        ("backup_keeps=5", "backup_keeps (-e); the nearest known one is backup_keep."),
    ],
)
def test_an_extra_variable_that_no_role_has_is_refused(refused: Callable[..., str], argument: str, reason: str) -> None:
    text = refused("-e", argument)
    assert reason in text
    assert "invalid_input" in text


@pytest.mark.parametrize("name", ["group_vars/all.yml", "group_vars/mobius.yml", "host_vars/here1.yml"])
def test_a_variable_of_the_inventory_is_refused_with_its_line(
    shop: Shop, refused: Callable[..., str], name: str
) -> None:
    path = shop.write(f"inventories/here/{name}", "---\nother: 1\nhost_prot: 9090\n")
    assert f"host_prot ({path}:3); the nearest known one is host_port." in refused()


def test_variables_without_our_prefixes_are_of_no_concern(shop: Shop) -> None:
    shop.write("inventories/here/group_vars/all.yml", "hostname: x\nbackups: 1\nmobius: 2\n__host_x: 1\n")
    assert shop.plain("-e", "frontend_port=1").returncode == 0


def test_a_rollback_goes_on_with_what_the_inventory_has(shop: Shop) -> None:
    shop.write("inventories/here/group_vars/all.yml", "host_prot: 9090\n")
    done = shop.plain("-e", "required=false")
    assert done.returncode == 0, done.stdout
    assert "A rollback goes on all the same: No role has the variable host_prot" in done.stdout + done.stderr
    assert shop.seen is not None


def test_a_rollback_does_not_go_on_with_a_misspelt_extra_variable(refused: Callable[..., str]) -> None:
    assert "mobius_too (-e); the nearest known one is mobius_to." in refused(
        "-e", "required=false", "-e", "mobius_too=1"
    )


def test_a_command_that_only_reads_an_inventory_warns_of_nothing() -> None:
    """Ansible's settings name the plugin that reads mobius.yml, which this process does not load."""
    done = mobius("history", "list", "-i", str(CHECKOUT / "inventories/staging"), cwd=CHECKOUT)
    assert "WARNING" not in done.stderr
