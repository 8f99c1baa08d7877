"""Every playbook can be read with every inventory, and opens its run first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted((CHECKOUT / "playbooks").glob("*.yml"))
INVENTORIES = ("local", "staging", "production")
READ_ONLY = {"status.yml", "smoke.yml", "lab.yml", "witnesses.yml"}


def ansible(*arguments: str) -> subprocess.CompletedProcess[str]:
    binary = Path(sys.executable).parent / "ansible-playbook"
    environment = {**os.environ, "PATH": f"{binary.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [str(binary), *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("inventory", INVENTORIES)
def test_every_playbook_passes_the_syntax_check(inventory: str) -> None:
    done = ansible("-i", f"inventories/{inventory}", "--syntax-check", *(str(path) for path in PLAYBOOKS))
    assert done.returncode == 0, done.stdout + done.stderr


def plays(path: Path) -> list[dict[str, Any]]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, list)
    return [play for play in loaded if "ansible.builtin.import_playbook" not in play]


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_the_first_task_of_a_play_that_can_change_a_host_opens_the_run(path: Path) -> None:
    if path.name in READ_ONLY:
        return
    for play in plays(path):
        settings, first = play["tasks"][:2]
        assert settings["ansible.builtin.import_role"]["name"] == "mobius.dhash.settings"  # which has no tasks
        assert not {"pre_tasks", "roles"} & set(play)
        assert "mobius.dhash.run" in first, f"{path.name}: {play['name']}"
        assert first.get("tags") == ["always"], f"{path.name}: {play['name']}"


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_every_play_fixes_its_strategy(path: Path) -> None:
    # without, ANSIBLE_STRATEGY decides: free and host_pinned would promote on all hosts at once
    for play in plays(path):
        expected = "free" if path.name == "rollback.yml" else "linear"
        assert play.get("strategy") == f"ansible.builtin.{expected}", f"{path.name}: {play['name']}"


def test_production_and_staging_only_override_what_exists() -> None:
    known: set[str] = set()
    for defaults in (CHECKOUT / "roles").glob("*/defaults/main.yml"):
        known |= set(yaml.safe_load(defaults.read_text(encoding="utf-8")))
    known |= {"mobius_bundle", "mobius_release"}
    for inventory in INVENTORIES:
        for path in (CHECKOUT / "inventories" / inventory).glob("group_vars/*.yml"):
            names = {
                name
                for name in yaml.safe_load(path.read_text(encoding="utf-8"))
                if not name.startswith(("ansible_", "lab_"))
            }
            assert names <= known, f"{path.relative_to(CHECKOUT)} sets {sorted(names - known)}, which nothing reads"


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "roles").glob("*/tasks/*.yml")), ids=lambda path: str(path.relative_to(CHECKOUT))
)
def test_every_failed_rollback_says_what_serves(path: Path) -> None:
    def tasks(items: Any) -> Any:
        for task in items or ():
            yield task
            for part in ("block", "rescue", "always"):
                yield from tasks(task.get(part))

    for task in tasks(yaml.safe_load(path.read_text(encoding="utf-8"))):
        failure = task.get("mobius.dhash.failure", {})
        if failure.get("outcome") == "rollback_failed":
            assert "host" in failure and "--from" not in failure["do_next"], task["name"]
            assert "`mobius-host rollback`" not in failure["do_next"], "it could go one release too far"
