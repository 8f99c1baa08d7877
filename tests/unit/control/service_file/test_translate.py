# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A `mobius.yml` becomes variables that the roles have, with values that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mobius.control.run.known_variables import known_variables
from mobius.control.service_file.example import init_project
from mobius.control.service_file.keys import KEYS
from mobius.control.service_file.parse import ServiceFile, read_service_file
from mobius.control.service_file.translate import MARKER, require_service_file, to_variables
from mobius.errors import MobiusError

CHECKOUT = Path(__file__).resolve().parents[4]
PATH = Path("/srv/shop/mobius.yml")


def translated(**values: Any) -> dict[str, Any]:
    return to_variables(ServiceFile(PATH, {"service": "shop", "exec": "bin/serve", **values}))


def test_a_service_has_nothing_of_dhash() -> None:
    variables = translated(health="/healthz")
    assert variables["mobius_service"] == "shop"
    assert variables["host_exec"] == "bin/serve"
    for name in ("host_watch_signals", "promote_signals", "promote_probes", "deploy_golden"):
        assert variables[name] == []
    for name in ("host_watch_memory", "backup_writes", "backup_drill_count"):
        assert variables[name] == {}
    assert variables["backup_drill_probes"] == [{"name": "health", "path": "/healthz"}]
    assert translated(kind="tcp")["backup_drill_probes"] == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"listen": 8000}, {"host_port": 8000}),
        ({"listen": "10.0.0.1:80"}, {"host_address": "10.0.0.1", "host_port": 80}),
        ({"listen": "[::1]:80"}, {"host_address": "::1", "host_port": 80}),
        ({"environment": {"A": True, "B": 1, "C": "x"}}, {"host_environment": {"A": "true", "B": "1", "C": "x"}}),
        ({"shared": ["uploads"]}, {"host_sandbox": {"write": ["uploads"]}}),
        ({"shared": ["a"], "sandbox": {"jit": True}}, {"host_sandbox": {"jit": True, "write": ["a"]}}),
        ({"start_timeout": 90}, {"host_start_timeout": 90, "deploy_start_timeout": 90}),
        ({"front": {"redirect_port": 80}}, {"host_front_redirect_port": 80}),
        ({"backup": {"keep": 3, "drill": "Sun 05:00"}}, {"backup_keep": 3, "backup_drill_calendar": "Sun 05:00"}),
        ({"hooks": {"before_deploy": "hooks/a.yml"}}, {"mobius_hooks": {"before_deploy": "/srv/shop/hooks/a.yml"}}),
        (
            {"probes": [{"name": "a", "path": "/"}]},
            {"deploy_golden": [{"name": "a", "path": "/"}], "promote_probes_dir": "/srv/shop"},
        ),
    ],
)
def test_a_key_becomes_variables(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= translated(**values).items()


def test_every_variable_is_one_of_the_roles() -> None:
    known = known_variables(CHECKOUT)
    for key in KEYS:
        value = yaml.safe_load(key.example)
        if key.types[0].keys:
            value = {inner.name: yaml.safe_load(inner.example) for inner in key.types[0].keys}
        assert set(translated(**{key.name: value})) <= known, key.name


def test_every_key_reaches_a_variable() -> None:
    plain = translated()
    for key in KEYS:
        value = yaml.safe_load(key.example)
        inner = [{each.name: yaml.safe_load(each.example)} for each in key.types[0].keys] or [value]
        for each in inner:
            if key.name not in ("service", "exec"):
                assert translated(**{key.name: each}) != plain or each == [], f"{key.name}: {each} does nothing"


def test_init_writes_a_file_that_is_read_and_never_overwrites(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "inventories/staging").mkdir(parents=True)
    (folder / "inventories/staging/hosts.yml").write_text("mine")
    written, kept = init_project(folder, "shop")
    assert kept == [folder / "inventories/staging/hosts.yml"]
    assert kept[0].read_text() == "mine"
    assert read_service_file(folder / "mobius.yml").service == "shop"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(MobiusError, match="is there already, and was not changed"):
        init_project(folder, "other")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert set(written) < set(before)


@pytest.mark.parametrize("name", ["Shop", "", "1shop", "a" * 42, "../shop", "shop\n"])
def test_init_refuses_a_name_that_no_service_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(MobiusError, match="is not a name"):
        init_project(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_ansible_has_taken_for_an_inventory_is_refused() -> None:
    require_service_file(["/srv/shop/mobius.yml", "x"], {MARKER: "/srv/shop/mobius.yml"})
    require_service_file(["inventories/staging"], {})
    with pytest.raises(MobiusError, match=r"the inventory plugin mobius\.dhash\.service_file is not enabled"):
        require_service_file(["mobius.yml", "inventories/staging"], {})
