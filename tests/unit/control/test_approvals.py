# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Approvals with real SSH keys: who counts, who does not, and what is still missing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from mobius.cli import run as mobius
from mobius.control import signatures
from mobius.control.plan import approvals
from mobius.control.plan.approvals import Rule, approve, tally
from mobius.control.plan.plan import MADE_FROM, ChangePlan
from mobius.errors import MobiusError

PEOPLE = {
    "ada": "mobius-approval-author,mobius-approval-release_owner",
    "bob": "mobius-approval-deploy_operator,mobius-approval-ops_sre",
    "eve": "mobius-approval-media_engineer",
    "key-of-ci": "mobius-history,mobius-bundle",
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key for each person, and `allowed_signers`."""
    folder = tmp_path_factory.mktemp("keys")
    lines = ["# who may sign what", ""]
    for name, namespaces in PEOPLE.items():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
        lines.append(f'{name}@example.org namespaces="{namespaces}" {(folder / f"{name}.pub").read_text().strip()}')
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "outsider")], check=True)
    (folder / "allowed_signers").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = dict.fromkeys(MADE_FROM, "x") | {"variables": {}, "inventory": "nowhere"}
    plan = ChangePlan("20260131T230501Z-9f3a61c2", "2026-01-31T23:05:00Z", "ada@control", made, {}, (), {})
    plan.write(tmp_path / "release.plan.json")
    return tmp_path / "release.plan.json"


@pytest.fixture
def rule(keys: Path) -> Rule:
    return Rule(required=2, roles=("ops_sre",), signers=keys / "allowed_signers")


def missing(path: Path, rule: Rule) -> list[str]:
    return list(tally(path, ChangePlan.read(path).digest, rule).missing)


@pytest.mark.slow
def test_two_people_one_of_them_ops_and_none_of_them_the_author(path: Path, keys: Path, rule: Rule) -> None:
    assert len(missing(path, rule)) == 3
    approve(path, "author", keys / "ada")
    assert missing(path, rule) == ["2 of 2 approvals", "an approval as ops_sre"]
    approve(path, "release_owner", keys / "ada")
    assert missing(path, rule) == ["2 of 2 approvals", "an approval as ops_sre"], "the author's own is none"
    approve(path, "media_engineer", keys / "eve")
    assert missing(path, rule) == ["1 of 2 approvals", "an approval as ops_sre"]
    approve(path, "deploy_operator", keys / "bob")
    assert missing(path, rule) == ["an approval as ops_sre"]
    approve(path, "ops_sre", keys / "bob")
    counted = tally(path, ChangePlan.read(path).digest, rule)
    assert (counted.missing, counted.author) == ((), "ada@example.org")
    assert [(item.signer, item.role) for item in counted.approvals] == [
        ("bob@example.org", "deploy_operator"),
        ("eve@example.org", "media_engineer"),
        ("bob@example.org", "ops_sre"),
    ]
    assert [item.role for item in counted.void] == ["release_owner"]


def test_one_person_in_two_roles_is_one_person(path: Path, keys: Path, rule: Rule) -> None:
    approve(path, "author", keys / "ada")
    for role in ("deploy_operator", "ops_sre"):
        approve(path, role, keys / "bob")
    assert missing(path, rule) == ["1 of 2 approvals"]


@pytest.mark.parametrize("signer_name", ["outsider", "eve", "key-of-ci"])
def test_a_key_counts_only_in_a_role_that_the_list_gives_it(
    path: Path, keys: Path, rule: Rule, signer_name: str
) -> None:
    approve(path, "ops_sre", keys / signer_name)
    counted = tally(path, ChangePlan.read(path).digest, rule)
    assert counted.approvals == ()
    assert [item.signer for item in counted.void] == [None]


@pytest.mark.slow
def test_an_approval_is_of_one_plan_and_one_role(path: Path, keys: Path, rule: Rule) -> None:
    kept = approve(path, "deploy_operator", keys / "bob")
    assert approve(path, "deploy_operator", keys / "bob") == kept
    renamed = kept.with_name(kept.name.replace("deploy_operator", "ops_sre"))
    renamed.write_bytes(kept.read_bytes())
    counted = tally(path, ChangePlan.read(path).digest, rule)
    assert [item.role for item in counted.approvals] == ["deploy_operator"], "another name makes no other role"
    assert [item.role for item in counted.void] == ["ops_sre"]
    assert tally(path, "0" * 64, rule).approvals == ()
    kept.write_bytes(kept.read_bytes()[:-80])
    assert tally(path, ChangePlan.read(path).digest, rule).approvals == ()


@pytest.mark.parametrize("name", ["mobius_checklist_required", "mobius_approvals_author_counts"])
def test_a_switch_of_the_rule_is_read_as_ansible_reads_it_and_never_ignored(name: str) -> None:
    """In an INI inventory it is text."""
    field = {"mobius_checklist_required": "checklist", "mobius_approvals_author_counts": "author_counts"}[name]
    for value in (True, "on", "Yes", "y", " true ", 1):
        assert getattr(Rule.read({name: value}), field), value
    for value in (False, "off", "No", "n", "", None, 0):
        assert not getattr(Rule.read({name: value}), field), value
    for value in ("required", "ja", [True], 2):
        with pytest.raises(MobiusError, match=name):
            Rule.read({name: value})


def test_an_author_may_count_where_the_inventory_says_so(path: Path, keys: Path, rule: Rule) -> None:
    own = dataclasses.replace(rule, required=1, roles=(), author_counts=True)
    approve(path, "author", keys / "ada")
    assert missing(path, own) == ["1 of 1 approvals"]
    approve(path, "release_owner", keys / "ada")
    assert missing(path, own) == []


def test_a_list_in_which_a_key_may_sign_for_everything_is_refused(path: Path, keys: Path, tmp_path: Path) -> None:
    public = (keys / "eve.pub").read_text().strip()
    for line in (f"eve@example.org {public}", f"eve@example.org cert-authority {public} namespaces=x", "nonsense"):
        (tmp_path / "signers").write_text(line + "\n")
        with pytest.raises(MobiusError) as caught:
            tally(path, "0" * 64, Rule(required=1, signers=tmp_path / "signers"))
        assert "Line 1" in caught.value.reason
    with pytest.raises(MobiusError, match="cannot be read"):
        tally(path, "0" * 64, Rule(required=1, signers=tmp_path / "none"))
    signatures.check_signers(keys / "allowed_signers")


def test_a_rule_is_read_from_variables_and_nonsense_is_refused() -> None:
    known = {"mobius_approvals_required": "2", "mobius_approvals_roles": ["Ops/SRE", "release-owner"]}
    assert Rule.read(known).roles == ("ops_sre", "release_owner")
    assert not Rule.read({}).wants_plan
    assert Rule.read({"mobius_plan_proven_on": "inventories/staging"}).wants_plan
    assert missing_of(Rule.read(known)) == ["the inventory names no mobius_approvals_signers"]
    for name, value in (
        ("mobius_approvals_required", -1),
        ("mobius_approvals_required", "two"),
        ("mobius_approvals_roles", ["king"]),
        ("mobius_approvals_signers", "here"),
        ("mobius_plan_max_hours", -1),
    ):
        with pytest.raises(MobiusError) as caught:
            Rule.read({name: value})
        assert caught.value.code == 1


def missing_of(rule: Rule) -> list[str]:
    return list(tally(Path("/nowhere"), "", rule).missing)


@pytest.mark.slow
def test_the_command_signs_says_what_is_missing_and_refuses_a_key_of_another_role(
    path: Path, keys: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["--signers", str(keys / "allowed_signers"), "--format", "json"]
    assert mobius(["approve", str(path), "--role", "Ops/SRE", "--key", str(keys / "bob"), *more]) == 0
    messages = json.loads(capfd.readouterr().out)
    assert [item["who"] for item in messages["approvals"]] == ["bob@example.org"]
    assert Path(messages["signature"]).exists()
    before = sorted(path.parent.iterdir())
    for arguments, sentence in (
        (["--role", "ops_sre", "--key", str(keys / "eve"), *more], "may not sign as ops_sre"),
        (["--role", "king", "--key", str(keys / "eve")], "is not a role"),
        (["--role", "ops_sre", "--key", str(keys / "none")], "cannot sign"),
    ):
        assert mobius(["approve", str(path), *arguments]) == 1
        assert sentence in capfd.readouterr().err
    assert sorted(path.parent.iterdir()) == before
    path.write_text(path.read_text().replace("20260131", "20270131"))
    assert mobius(["approve", str(path), "--role", "ops_sre", "--key", str(keys / "bob")]) == 1
    assert "was changed after it was made" in capfd.readouterr().err
    assert approvals.role_of("Release owner") == "release_owner"
