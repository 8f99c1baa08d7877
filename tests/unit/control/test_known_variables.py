# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names that count as variables of ours come from one place, and everything that MOBIUS itself has is among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mobius.control.nearest import nearest_name
from mobius.control.run.known_variables import find_unknown, known_variables, require_known
from mobius.errors import MobiusError

CHECKOUT = Path(__file__).resolve().parents[3]
KNOWN = known_variables(CHECKOUT)
# what a run finds out, and no user sets
RESULTS = {"mobius_failure", "mobius_run_id", "mobius_run_actor", "mobius_run_head", "mobius_run_witnessed"}
# columns of metrics, in the signals of dhash
METRIC = re.compile(r"mobius_(http_requests|extraction_failures|hash_duration|http_request_duration)_\w+")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("host_prot", "host_port"),
        ("front_certificate", "host_front_certificate"),
        ("mobius_servce", "mobius_service"),
        ("deploy_start_time_out", "deploy_start_timeout"),
        ("backup_zzzzzzzzzzzz", None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(name: str, nearest: str | None) -> None:
    assert nearest_name(name, KNOWN) == nearest


def test_nothing_is_near_when_nothing_is_known() -> None:
    assert nearest_name("host_port", ()) is None


def test_every_default_of_a_role_is_known() -> None:
    for path in (CHECKOUT / "roles").glob("*/defaults/main.yml"):
        assert set(yaml.safe_load(path.read_text())) <= KNOWN


def test_every_setting_that_playbooks_and_roles_read_is_known() -> None:
    for folder in ("playbooks", "roles"):
        for path in (CHECKOUT / folder).rglob("*.yml"):
            named = {each for each in re.findall(r"\bmobius_\w+", path.read_text()) if not METRIC.fullmatch(each)}
            assert named <= KNOWN | RESULTS, path


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("inventories/*/group_vars/*.yml")), ids=str)
def test_the_inventories_of_this_repository_have_known_variables_only(path: Path) -> None:
    require_known(find_unknown(yaml.safe_load(path.read_text()), KNOWN), KNOWN)


def test_every_unknown_variable_is_named_with_where_it_stands() -> None:
    unknown = find_unknown({"host_prot": 1, "host_port": 2, "hostname": 3, "mobius_x": 4}, KNOWN, "-e")
    with pytest.raises(MobiusError) as caught:
        require_known(unknown, KNOWN)
    assert caught.value.reason == (
        "No role has the variable host_prot (-e); the nearest known one is host_port. "
        "No role has the variable mobius_x (-e). Nothing was changed."
    )


def test_many_unknown_variables_are_counted() -> None:
    with pytest.raises(MobiusError, match=r"; and 4 more\. Nothing was changed\."):
        require_known(find_unknown({f"host_zzzzzzzz{number}": 1 for number in range(9)}, KNOWN), KNOWN)
