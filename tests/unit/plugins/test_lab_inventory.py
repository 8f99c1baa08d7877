"""`inventories/local` has the hosts of the project's lab, and can be read while there is none."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name that has the inventory and nothing else."""
    root = tmp_path / "my checkout"
    (root / "inventories" / "local").mkdir(parents=True)
    shutil.copy(CHECKOUT / "inventories" / "local" / "hosts.py", root / "inventories" / "local")
    return root


def ask(root: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The script's output, run from another folder, and its errors."""
    script = root / "inventories" / "local" / "hosts.py"
    done = subprocess.run([script, *arguments], cwd="/", capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def put_record(checkout: Path, *, root: str | None = None) -> None:
    host = {"name": "lab1", "ssh_port": 21000, "http_port": 21001, "ports": {"22": 21000, "8080": 21001}}
    (checkout / ".lab").mkdir()
    record = {"schema": 1, "root": root or str(checkout), "hosts": [host]}
    (checkout / ".lab" / "lab.json").write_text(json.dumps(record))


def test_while_the_lab_is_down_three_hosts_are_named_on_a_port_where_nothing_answers(checkout: Path) -> None:
    answer, complaint = ask(checkout, "--list")
    assert answer["mobius"]["hosts"] == ["lab1", "lab2", "lab3"]
    assert {answer["_meta"]["hostvars"][name]["ansible_port"] for name in answer["mobius"]["hosts"]} == {9}
    assert complaint == ""


def test_the_hosts_of_a_lab_that_is_up_are_the_recorded_ones(checkout: Path) -> None:
    put_record(checkout)
    answer, _ = ask(checkout)
    assert answer["mobius"]["hosts"] == ["lab1"]
    assert answer["_meta"]["hostvars"]["lab1"] == {
        "ansible_host": "127.0.0.1",
        "ansible_port": 21000,
        "lab_http_port": 21001,
        "lab_ports": {"22": 21000, "8080": 21001},
    }
    assert ask(checkout, "--host", "lab1")[0]["ansible_port"] == 21000


def test_the_control_node_is_in_no_group_of_hosts(checkout: Path) -> None:
    answer, _ = ask(checkout)
    assert answer["ungrouped"]["hosts"] == ["localhost"]
    assert "localhost" not in answer["mobius"]["hosts"]


def test_the_hosts_of_the_checkout_that_this_one_was_copied_from_are_not_its_own(checkout: Path) -> None:
    put_record(checkout, root="/home/somebody/mobius")
    answer, _ = ask(checkout)
    assert answer["_meta"]["hostvars"]["lab1"]["ansible_port"] == 9


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"schema": 1}'])
def test_a_damaged_record_is_complained_of_and_the_inventory_can_still_be_read(checkout: Path, damage: str) -> None:
    (checkout / ".lab").mkdir()
    (checkout / ".lab" / "lab.json").write_text(damage)
    answer, complaint = ask(checkout)
    assert answer["mobius"]["hosts"] == ["lab1", "lab2", "lab3"]
    assert "mobius lab up" in complaint


def test_only_known_host_keys_are_accepted_and_the_users_own_ssh_settings_do_not_count(checkout: Path) -> None:
    variables = ask(checkout)[0]["mobius"]["vars"]
    options = shlex.split(variables["ansible_ssh_common_args"])
    assert options[:2] == ["-F", "none"]
    assert "StrictHostKeyChecking=yes" in options
    # one pair of quotes is left for ssh itself, which splits this value at spaces
    assert f'UserKnownHostsFile="{checkout}/.lab/known_hosts"' in options
    assert variables["ansible_ssh_private_key_file"] == f"{checkout}/.lab/id_ed25519"


def test_a_history_and_bundles_lie_in_the_folder_of_the_lab(checkout: Path) -> None:
    assert ask(checkout)[0]["mobius"]["vars"]["lab_root"] == str(checkout)


@pytest.mark.parametrize("named", [True, False])
def test_in_an_installed_collection_it_is_the_lab_of_the_users_folder(tmp_path: Path, named: bool) -> None:
    collection, project = tmp_path / "ansible_collections/mobius/dhash", tmp_path / "project"
    (collection / "inventories/local").mkdir(parents=True)
    shutil.copy(CHECKOUT / "inventories/local/hosts.py", collection / "inventories/local")
    project.mkdir()
    put_record(project)
    environment = {name: value for name, value in os.environ.items() if name != "MOBIUS_PROJECT"}
    done = subprocess.run(
        [collection / "inventories/local/hosts.py"],
        cwd=tmp_path if named else project,
        env={**environment, "MOBIUS_PROJECT": str(project)} if named else environment,
        capture_output=True,
        text=True,
        check=True,
    )
    group = json.loads(done.stdout)["mobius"]
    assert (group["hosts"], group["vars"]["lab_root"]) == (["lab1"], str(project))


@pytest.mark.parametrize("is_named", [True, False])
def test_a_folder_with_a_service_of_its_own_has_a_lab_of_its_own(
    checkout: Path, tmp_path: Path, is_named: bool
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    script = checkout / "inventories" / "local" / "hosts.py"
    environment = {**os.environ, "MOBIUS_PROJECT": str(shop)} if is_named else {**os.environ}

    def lab_root() -> str:
        folder = "/" if is_named else shop
        done = subprocess.run([script], cwd=folder, env=environment, capture_output=True, text=True, check=True)
        return str(json.loads(done.stdout)["mobius"]["vars"]["lab_root"])

    assert lab_root() == str(checkout)
    (shop / "mobius.yml").touch()
    assert lab_root() == str(shop)
