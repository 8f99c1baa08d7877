# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""MOBIUS works from its wheel and from its collection, in a user's folder with no checkout near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mobius
from mobius.manifest import Bundle, release_of
from tests.integration.installed.conftest import Artifacts, call

pytestmark = pytest.mark.lab

ANSIBLE_CFG = """\
[defaults]
collections_path = collections
callbacks_enabled = mobius.dhash.outcome
host_pattern_mismatch = error
"""
PLAYBOOK = """\
- name: Prepare the hosts
  hosts: mobius
  gather_facts: false
  tasks:
    - name: Open the run
      mobius.dhash.run:

    - name: Prepare the host
      ansible.builtin.import_role:
        name: mobius.dhash.host
      vars:
        host_service: mobius-dhash
"""
OPEN = """\
- name: Open a run that changes nothing
  hosts: all
  gather_facts: false
  vars:
    mobius_history_dir: {history}
  tasks:
    - name: Open the run
      mobius.dhash.run:
        witness: false
"""


def test_the_wheel_runs_every_step_of_a_release_from_an_empty_folder(
    installed: Path, project: Path, bundles: list[Bundle]
) -> None:
    command = installed / "mobius"

    def run(*arguments: object) -> dict[str, Any]:
        return dict(json.loads(call([command, *arguments, "--format", "json"], project).stdout))

    def confirmed() -> str:
        return release_of(next(iter(run("status")["releases"].values()))["confirmed"])

    assert call([command, "--version"], project).stdout == f"mobius, version {mobius.__version__}\n"
    run("lab", "up", "--hosts", "1")
    assert run("lab", "status")["running"]
    run("provision")
    for bundle in bundles:
        run("release", "--bundle", bundle.path)
        assert confirmed() == bundle.release_id
    run("rollback", "--reason", "try it")
    assert confirmed() == bundles[0].release_id

    runs = json.loads(call([command, "history", "list", "--format", "json"], project).stdout)
    outcomes = {(item["playbook"], item["outcome"]) for item in runs}
    assert {("playbooks/release.yml", "success"), ("playbooks/rollback.yml", "success")} <= outcomes
    # nothing of MOBIUS was copied into the folder
    assert {path.name for path in project.iterdir()} <= {".lab", ".cache"}


def test_the_wheel_begins_a_project_and_tries_a_service(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    command = installed / "mobius"
    call([command, "init", "shop"], folder)
    (folder / "app").mkdir()
    (folder / "app/index.html").write_text("shop")
    (folder / "mobius.yml").write_text("service: shop\nexec: python3 -m http.server {port} --bind {host}\nhealth: /\n")
    report = json.loads(call([command, "try", "app", "--format", "json"], folder).stdout)
    assert report["outcome"] == "success"
    assert {check["result"] for check in report["checks"]} == {"kept"}
    assert call([command, "bundle", "pack", "app", "--version", "1.0.0"], folder).stdout.startswith("1.0.0-")
    assert call([command, "try", "dist/shop-1.0.0.tar.gz"], folder).stdout.startswith("shop: 11 kept, 0 broken")
    (folder / "mobius.yml").write_text("service: shop\nexcc: x\n")
    refused = call([command, "status", "-i", "inventories/staging"], folder, code=1).stderr
    assert "mobius.yml:2: there is no key excc; the nearest known one is exec." in refused


def test_the_collection_serves_a_playbook_of_ones_own_and_the_run_is_recorded(
    installed: Path, artifacts: Artifacts, project: Path
) -> None:
    (project / "ansible.cfg").write_text(ANSIBLE_CFG)
    (project / "site.yml").write_text(PLAYBOOK)
    install = ["collection", "install", "--offline", artifacts.tarball, "-p", "collections"]
    call([installed / "ansible-galaxy", *install], project)
    inventory = project / "collections/ansible_collections/mobius/dhash/inventories/local"
    call([installed / "ansible-playbook", "-i", inventory, "site.yml"], project)
    runs = json.loads(call([installed / "mobius", "history", "list", "--format", "json"], project).stdout)
    assert ("site.yml", "success") in {(item["playbook"], item["outcome"]) for item in runs}


def test_without_the_callback_a_run_is_refused_with_what_to_do(
    installed: Path, artifacts: Artifacts, tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "folder", installed, artifacts, callback=False)
    done = call([installed / "ansible-playbook", "-i", "localhost,", "-c", "local", "open.yml"], folder, code=2)
    assert "results and the end of the run would not be recorded; nothing was changed." in done.stdout
    assert "have mobius.dhash.outcome among its values in ansible.cfg" in done.stdout
    assert not (folder / "history").exists()


@pytest.mark.parametrize("callback", [True, False])
def test_without_the_wheel_there_is_one_sentence_with_what_to_do(
    installed: Path, artifacts: Artifacts, tmp_path: Path, callback: bool
) -> None:
    folder = prepare(tmp_path / "folder", installed, artifacts, callback=callback)
    # the same Ansible, to which the package mobius does not exist
    hidden = "import sys; sys.modules['mobius'] = None; from ansible.cli.playbook import main; main()"
    command = [installed / "python", "-c", hidden, "-i", "localhost,", "-c", "local", "open.yml"]
    text = " ".join(call(command, folder, code=1).stderr.split())
    assert text.count("missing_dependency: ") == 1
    assert "needs the package mobius-dhash, which is not installed" in text
    assert "-m pip install --upgrade 'mobius-dhash[control]'" in text


def prepare(folder: Path, installed: Path, artifacts: Artifacts, *, callback: bool) -> Path:
    """A folder with the collection and a playbook that opens a run, and changes no host."""
    folder.mkdir()
    settings = ANSIBLE_CFG if callback else ANSIBLE_CFG.replace("callbacks_enabled", "# callbacks_enabled")
    (folder / "ansible.cfg").write_text(settings)
    (folder / "open.yml").write_text(OPEN.format(history=folder / "history"))
    install = ["collection", "install", "--offline", artifacts.tarball, "-p", "collections"]
    call([installed / "ansible-galaxy", *install], folder)
    return folder
