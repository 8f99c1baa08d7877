# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Relative paths count from the folder of the person, though Ansible runs in the project's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.control.run.project import find_project
from mobius.control.run.runner import _environment, extra_argument, limit_argument
from mobius.errors import MobiusError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "failed").write_text("lab1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("@failed", "@{here}/failed"),
        ("lab2,@failed", "lab2,@{here}/failed"),
        ("lab1:!lab2", "lab1:!lab2"),
        (None, None),
    ],
)
def test_a_file_of_hosts_is_found_from_here(here: Path, limit: str | None, expected: str | None) -> None:
    assert limit_argument(limit) == (expected and expected.format(here=here))


def test_a_file_of_hosts_that_is_missing_is_refused_with_its_whole_path(here: Path) -> None:
    with pytest.raises(MobiusError) as caught:
        limit_argument("@nothing")
    assert caught.value.outcome == "invalid_input" and f"{here}/nothing" in caught.value.reason


def test_a_file_of_variables_is_found_from_here(here: Path) -> None:
    assert extra_argument("@failed") == f"@{here}/failed"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ANSIBLE_VAULT_PASSWORD_FILE", "vault", "{here}/vault"),
        ("ANSIBLE_VAULT_PASSWORD_FILE", "/etc/vault", "/etc/vault"),
        (
            "ANSIBLE_VAULT_IDENTITY_LIST",
            "dev@vault,prod@keys/prod,prompt",
            "dev@{here}/vault,prod@{here}/keys/prod,prompt",
        ),
        ("ANSIBLE_VAULT_IDENTITY_LIST", "dev@prompt", "dev@prompt"),
        ("ANSIBLE_PRIVATE_KEY_FILE", "id", "{here}/id"),
        ("ANSIBLE_BECOME_PASSWORD_FILE", "sudo", "{here}/sudo"),
    ],
)
def test_a_file_that_the_environment_names_is_found_from_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    project = find_project()
    assert _environment(project, Path("/usr/bin"), "run")[name] == expected.format(here=here)
