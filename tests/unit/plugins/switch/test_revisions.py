# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release with another configuration: what is kept beside its tree, what a host makes of ids, and what goes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.revision import (
    Configuration,
    health_path_of,
    keep_configuration,
    read_configuration,
    revision_of,
    revision_problems,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_current_link, staged_releases
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import release_of

A, B = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0"))
PATH = Path("configuration.json")
Module = Callable[..., dict[str, Any]]


def describe(machine: Any, **changes: Any) -> Configuration:
    """Give the host a configuration, as the role host does."""
    content = {
        "command": "bin/serve",
        "environment": {},
        "health_path": "/health",
        "health_command": [],
        **changes,
    }
    configuration = Configuration.parse(PATH, content)
    machine.host.configuration_path.parent.mkdir(exist_ok=True)
    durable.write_json(machine.host.configuration_path, configuration.as_dict(), mode=0o600)
    return configuration


def keep(machine: Any, release: str, **changes: Any) -> str:
    """A staged revision of the release with this configuration."""
    describe(machine, **changes)
    revision = revision_of(machine.host, release)
    assert keep_configuration(machine.host, revision, check=False) is True
    return revision


def test_a_host_that_describes_no_configuration_makes_no_revisions(machine: Any) -> None:
    assert revision_of(machine.host, A) == A
    assert keep_configuration(machine.host, A, check=False) is False
    assert read_configuration(machine.host, A) is None


def test_the_digest_is_of_the_values_whatever_their_order_and_type(machine: Any) -> None:
    one = describe(machine, environment={"A": 4, "B": "b"})
    other = describe(machine, environment={"B": "b", "A": "4"})
    assert one.digest == other.digest
    digests = {
        describe(machine, **changes).digest
        for changes in ({}, {"environment": {"A": "5"}}, {"command": "bin/other"}, {"health_path": "/up"})
    }
    assert len(digests) == 4


def test_what_is_kept_is_whole_or_nothing_and_a_damaged_one_is_kept_again(machine: Any) -> None:
    host = machine.host
    describe(machine, environment={"SHELF": "a"}, health_path="/up")
    revision = revision_of(host, A)
    assert keep_configuration(host, revision, check=True) is True
    assert revision not in staged_releases(host)
    assert keep_configuration(host, revision, check=False) is True
    assert keep_configuration(host, revision, check=False) is False
    folder = host.revision_dir(revision)
    assert (folder / "tree").resolve() == host.release_dir(A) / "tree"
    assert (folder / "configuration.json").stat().st_mode & 0o777 == 0o600
    describe(machine, environment={"SHELF": "b"})
    kept = read_configuration(host, revision)
    assert kept is not None and kept.environment == {"SHELF": "a"}
    assert (health_path_of(host, revision), health_path_of(host, A)) == ("/up", "/health")

    durable.write_json(folder / "configuration.json", {**kept.as_dict(), "command": "bin/other"})
    assert revision_problems(host, revision) == ["changed configuration.json"]
    with pytest.raises(MobiusError, match="has changed"):
        keep_configuration(host, revision, check=False)
    describe(machine, environment={"SHELF": "a"}, health_path="/up")
    assert keep_configuration(host, revision, check=False) is True
    assert revision_problems(host, revision) == []
    (folder / "configuration.json").unlink()
    assert len(revision_problems(host, revision)) == 1
    assert list(host.releases_dir.glob(".staging-*")) == []


@pytest.mark.parametrize(
    "content",
    [
        {"command": ""},
        {"command": "bin/serve 'open"},
        {"environment": {"lower-case": "1"}},
        {"environment": {"A\nexport B": "1"}},
        {"environment": {"A": ["1"]}},
        {"health_path": 3},
        {"health_command": "true"},
    ],
)
def test_a_configuration_that_no_instance_can_run_with_is_refused(machine: Any, content: dict[str, Any]) -> None:
    with pytest.raises(MobiusError, match="damaged"):
        describe(machine, **content)


def test_the_script_gives_the_program_each_word_and_each_value_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "show").write_text('#!/bin/sh\nprintf \'%s\\n\' "$VALUE" "$@"\n')
    (tmp_path / "show").chmod(0o755)
    command = "./show 'two words' {address} \"it's\" $$HOME ${PORT} $(id) `id` 100%% %i \\\\ '\"'"
    command += " $PORT --x={$PORT} {${PORT}} 'for i in 1; do echo $i; done' %n"
    value = "a 'b' \"c\" $HOME `id`\nnext %i"
    configuration = Configuration(command, {"VALUE": "other"}, "/health")
    (tmp_path / "start").write_text(configuration.script("1.0_a", {"VALUE": value}))
    environment = {"MOBIUS_ADDRESS": "127.0.0.1:1", "PORT": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "start"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    words = ["two words", "127.0.0.1:1", "it's", "$HOME", "1", "$(id)", "`id`", "100%", "1.0_a", "\\", '"']
    words += ["1", "--x={$PORT}", "{1}", "for i in 1; do echo $i; done", "%n"]
    assert done.stdout.splitlines() == [*value.splitlines(), *words]


def test_a_rollback_goes_to_the_configuration_before_and_only_the_revision_is_bad(machine: Any) -> None:
    first = keep(machine, A, environment={"SHELF": "a"})
    machine.promote(first)
    assert read_current_link(machine.host) == first
    second = keep(machine, A, environment={"SHELF": "b"})
    machine.promote(second)
    observed = machine.observed()
    assert (observed.activation.confirmed, observed.activation.previous(observed.staged)) == (second, first)
    for _ in range(2):  # Ansible repeats a module whose connection broke
        plan = machine.run(plan_rollback, A, run="r2")
        assert plan.after.activation.confirmed == first
    activation = machine.observed().activation
    assert (activation.is_bad(second), activation.is_bad(first), activation.is_bad(A)) == (True, False, False)
    assert machine.shares == {first: 100}


def test_a_record_from_before_goes_on_and_its_release_is_a_way_back(machine: Any) -> None:
    machine.promote(A)
    revision = keep(machine, A, environment={"SHELF": "a"})
    assert machine.observed().activation.confirmed == A
    machine.promote(revision)
    assert machine.command("rollback", "--from", revision) == 0
    assert machine.observed().activation.confirmed == A


def test_status_names_revisions_and_not_the_tree_that_they_share(machine: Any, run_module: Module) -> None:
    first = keep(machine, A, environment={"SHELF": "a"})
    second = keep(machine, A, environment={"SHELF": "b"})
    facts = run_module("release_info", release=A)
    names = [item["release"] for item in facts["releases"] if release_of(item["release"]) == A]
    assert (names, facts["revision"]) == (sorted([first, second]), second), "with the configuration of now"


def test_retention_removes_revisions_and_with_the_last_one_their_tree(machine: Any, run_module: Module) -> None:
    revisions = [keep(machine, A, environment={"SHELF": shelf}) for shelf in "ab"]
    for revision in (*revisions, B):
        machine.promote(revision)
    predicted = run_module("retention", keep=2, check=True)
    assert run_module("retention", keep=2)["removed"] == predicted["removed"] == [revisions[0]]
    assert machine.host.release_dir(A).is_dir()
    machine.promote(f"{'1.2.0'}-0123456789ab")
    assert run_module("retention", keep=2)["removed"] == [revisions[1], A]
    assert not machine.host.release_dir(A).exists() and not machine.host.revision_dir(revisions[1]).exists()
    assert run_module("retention", keep=2)["changed"] is False


def test_a_revision_without_its_tree_is_not_staged(machine: Any) -> None:
    revision = keep(machine, A)
    shutil.rmtree(machine.host.release_dir(A))
    assert revision not in staged_releases(machine.host)


def test_a_release_alone_is_not_promoted_where_only_revisions_of_it_were_deployed(machine: Any) -> None:
    revisions = [keep(machine, A, environment={"SHELF": shelf}) for shelf in "ab"]
    describe(machine, environment={"SHELF": "c"})
    with pytest.raises(MobiusError, match=re.escape(f"as {revisions[0]} and {revisions[1]}, and not")) as refused:
        machine.promote(A)
    assert refused.value.outcome == "release_missing"
    assert machine.observed().activation.confirmed is None


def test_a_mark_from_before_is_obeyed_by_revisions_of_its_release(machine: Any) -> None:
    machine.promote(B)
    machine.promote(A)
    assert machine.command("rollback", "--from", A) == 0
    assert machine.observed().activation.is_bad(A)
    revision = keep(machine, A, environment={"SHELF": "a"})
    with pytest.raises(MobiusError, match=f"{A} was marked bad"):
        machine.promote(revision)


def test_a_revision_whose_folder_is_gone_is_a_problem_and_its_tree_stays(machine: Any, run_module: Module) -> None:
    revision = keep(machine, A)
    machine.promote(revision)
    shutil.rmtree(machine.host.revision_dir(revision))
    assert [item["problem"] for item in run_module("release_info")["problems"]] == [
        f"{revision} serves, and its folder {machine.host.revision_dir(revision)}/tree is gone."
    ]
    refused = run_module("release", release=A, state="absent")
    assert refused["mobius_failure"]["reason"] == f"{A} is not removed: it is the confirmed release."
    assert machine.host.release_dir(A).is_dir()


@pytest.mark.parametrize("instances", [{"command": "bin/x 'open"}, {"environment": {"A": [1]}}])
def test_a_wrong_configuration_is_the_callers_and_no_damage(
    machine: Any, run_bare_module: Module, instances: dict[str, Any]
) -> None:
    whole = {"command": "bin/x", "environment": {}, "health_path": "/health", **instances}
    config = json.loads((machine.config_dir / f"{machine.host.service}.json").read_text())
    tool = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib")}
    answer = run_bare_module("host_tool", **tool, service=machine.host.service, config={**config, "instances": whole})
    assert answer["mobius_failure"]["outcome"] == "invalid_input", answer
    assert not machine.host.configuration_path.exists()
