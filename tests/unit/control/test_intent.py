"""The digest of the code that decides what a run does covers the user's own roles and tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.control.history.intent import code_digest


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
