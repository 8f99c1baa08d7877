# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run finds its playbooks in the checkout, in the wheel, or in a newer collection of the project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mobius
from mobius.control.bundle import builder
from mobius.control.run.project import find_inventory, find_project
from mobius.errors import MobiusError

NAME = Path("ansible_collections/mobius/dhash")


def make_collection(folder: Path, *, version: str | None = None) -> Path:
    (folder / "playbooks").mkdir(parents=True)
    (folder / "galaxy.yml").touch()
    (folder / "inventories/local").mkdir(parents=True)
    (folder / "inventories/local/hosts.py").touch()
    if version is not None:
        (folder / "MANIFEST.json").write_text(json.dumps({"collection_info": {"version": version}}))
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package as the wheel installs it."""
    package = tmp_path / "site-packages/mobius"
    make_collection(package / "_collection" / NAME)
    return package


@pytest.fixture
def current(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def test_a_package_in_a_checkout_uses_the_checkout_wherever_it_is_called(tmp_path: Path, current: Path) -> None:
    checkout = make_collection(tmp_path / "checkout")
    project = find_project(checkout / "mobius", current)
    assert (project.folder, project.collection) == (checkout, checkout)
    assert project.environment == {"ANSIBLE_CONFIG": str(checkout / "ansible.cfg"), "MOBIUS_PROJECT": str(checkout)}


def test_an_installed_package_uses_its_own_collection_and_the_current_folder(package: Path, current: Path) -> None:
    project = find_project(package, current)
    assert (project.folder, project.collection) == (current, package / "_collection" / NAME)
    assert project.playbooks == package / "_collection" / NAME / "playbooks"
    paths = project.environment["ANSIBLE_COLLECTIONS_PATH"].split(":")
    assert paths[:2] == [str(package / "_collection"), str(current / "collections")]


@pytest.mark.parametrize(("version", "used"), [("99.0.0", True), (mobius.__version__, False), ("0.0.1", False)])
def test_only_a_newer_collection_of_the_project_comes_first(
    package: Path, current: Path, version: str, used: bool
) -> None:
    installed = make_collection(current / "collections" / NAME, version=version)
    project = find_project(package, current)
    assert (project.collection == installed) is used
    first = project.environment["ANSIBLE_COLLECTIONS_PATH"].split(":")[0]
    assert first == str(current / "collections" if used else package / "_collection")
    # the settings are those that this package was tested with
    assert project.settings == package / "_collection" / NAME / "ansible.cfg"


def test_a_collection_that_anybody_could_have_put_there_is_not_used(package: Path, current: Path) -> None:
    make_collection(current / "collections" / NAME, version="99.0.0")
    current.chmod(0o777)
    project = find_project(package, current)
    assert project.collection == package / "_collection" / NAME
    assert str(current / "collections") not in project.environment["ANSIBLE_COLLECTIONS_PATH"]


@pytest.mark.parametrize("damage", ["", "[]", '{"collection_info": {"version": "new"}}'])
def test_a_damaged_collection_of_the_project_is_not_used(package: Path, current: Path, damage: str) -> None:
    installed = make_collection(current / "collections" / NAME)
    (installed / "MANIFEST.json").write_text(damage)
    assert find_project(package, current).collection == package / "_collection" / NAME


def test_a_package_without_its_collection_is_reported_with_the_command_that_repairs_it(
    tmp_path: Path, current: Path
) -> None:
    with pytest.raises(MobiusError, match="playbooks of MOBIUS are missing") as caught:
        find_project(tmp_path / "site-packages/mobius", current)
    assert caught.value.outcome == "environment_failed"
    assert "--force-reinstall" in caught.value.do_next


def test_the_inventory_of_the_project_comes_before_that_of_the_collection(
    package: Path, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(current)
    project = find_project(package, current)
    # not the folder, in which pip leaves __pycache__
    script = project.collection / "inventories/local/hosts.py"
    assert find_inventory("inventories/local", project) == str(script)
    (current / "inventories/local").mkdir(parents=True)
    assert find_inventory("inventories/local", project) == str(current / "inventories/local")
    assert find_inventory("host1,host2", project) == "host1,host2"
    with pytest.raises(MobiusError) as caught:
        find_inventory("inventories/none", project)
    assert caught.value.outcome == "unknown_inventory"


def test_an_installed_package_builds_a_bundle_of_the_checkout_in_the_current_folder(
    tmp_path: Path, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert builder.default_source(current) == builder.CHECKOUT
    monkeypatch.setattr(builder, "CHECKOUT", tmp_path / "site-packages")
    with pytest.raises(MobiusError, match="built in a checkout of MOBIUS") as caught:
        builder.default_source(current)
    assert caught.value.outcome == "invalid_input"
    (current / builder.LOCK).parent.mkdir(parents=True)
    (current / builder.LOCK).touch()
    assert builder.default_source(current) == current
