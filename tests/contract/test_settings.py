"""A setting is obeyed wherever a user writes it: what MOBIUS itself sets, it sets below everything that a user can write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.setting_places import EXTRA, PLACES

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def own_variables() -> set[str]:
    """What the playbooks pass on, and no user sets: the variables of plays and of their imports."""
    names: set[str] = set()
    for path in (CHECKOUT / "playbooks").glob("*.yml"):
        for play in load(path):
            names |= set(play.get("vars", {}))
    return names


def settings() -> dict[str, str]:
    """Every public setting, with a value that nothing else has."""
    names = {name for path in (CHECKOUT / "roles").glob("*/defaults/main.yml") for name in load(path)}
    return {name: f"set by the user: {name}" for name in sorted(names - own_variables())}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inventories")
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.setting_places", str(CHECKOUT), str(folder)],
        cwd=CHECKOUT,
        input=json.dumps(settings()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("place", [*(place.__name__ for place in PLACES), EXTRA])
def test_every_setting_is_obeyed_in_every_place(answer: dict[str, Any], place: str) -> None:
    assert answer[place] == {}


def test_every_setting_reaches_a_task(answer: dict[str, Any]) -> None:
    # the hooks' role is included, and gets its variables from those who include it
    assert {name for name in settings() if not name.startswith("hook_")} == set(answer["reached"])
