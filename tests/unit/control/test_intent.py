"""The digest of the code that decides what a run does covers the user's own roles and tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.control.history.intent import Intent, code_digest
from mobius.control.history.writer import History


def make_project(folder: Path, playbook: str) -> Path:
    for name in (playbook, "roles/shop/tasks/main.yml", "tasks/extra.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]")
    return folder / playbook


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/site.yml"])
@pytest.mark.parametrize("changed", ["roles/shop/tasks/main.yml", "tasks/extra.yml"])
def test_a_changed_role_or_task_of_the_project_changes_the_digest(tmp_path: Path, playbook: str, changed: str) -> None:
    path = make_project(tmp_path / "shop", playbook)
    before = code_digest(tmp_path / "collection", path)
    assert code_digest(tmp_path / "collection", path) == before
    (tmp_path / "shop" / changed).write_text("[{}]")
    assert code_digest(tmp_path / "collection", path) != before


def test_a_file_beside_the_project_does_not_change_the_digest(tmp_path: Path) -> None:
    path = make_project(tmp_path / "shop", "site.yml")
    before = code_digest(tmp_path / "collection", path)
    make_project(tmp_path, "other.yml")
    assert code_digest(tmp_path / "collection", path) == before


def test_the_file_of_the_service_belongs_to_the_inventory_but_not_to_its_name(tmp_path: Path) -> None:
    """A plan names its inventory, and is stale when `mobius.yml` has changed since."""
    folder = tmp_path / "shop"
    (folder / "inventories").mkdir(parents=True)
    for name in ("mobius.yml", "inventories/hosts.yml", "play.yml"):
        (folder / name).write_text("{}")
    sources = (str(folder / "mobius.yml"), str(folder / "inventories"))
    intent = Intent(
        "run", "me", str(folder / "play.yml"), folder, tmp_path / "collection", sources, ("h1",), check=True
    )
    before = intent.record(History(tmp_path / "history"), {})
    assert before["inventory"] == "inventories"
    (folder / "mobius.yml").write_text("{service: shop}")
    after = intent.record(History(tmp_path / "history"), {})
    assert after["inventory"] == "inventories"
    assert after["inventory_sha256"] != before["inventory_sha256"]
