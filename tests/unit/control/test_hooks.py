# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which hooks are found, and why others cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobius.control.run.hooks import find_hooks, hook_failure


def test_a_relative_path_begins_in_the_folder_and_an_empty_one_is_no_hook(tmp_path: Path) -> None:
    for name, text in (("mine.yml", "- ping:\n"), ("secret.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n")):
        (tmp_path / name).write_text(text)
    value = {"before_deploy": "mine.yml", "after_deploy": str(tmp_path / "secret.yml"), "after_confirm": ""}
    result = {"before_deploy": str(tmp_path / "mine.yml"), "after_deploy": str(tmp_path / "secret.yml")}
    assert find_hooks(value, tmp_path) == (result, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("a: [", "is no YAML"),
        ("just: this", "is no list of tasks"),
        ("", "is no list of tasks"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "mine.yml"
    if text is not None:
        path.write_text(text)
    sentence = f"The hook before_promote cannot be run: {path} {problem}."
    assert find_hooks({"before_promote": "mine.yml"}, tmp_path) == ({}, [sentence])


ONCE = "- ping:\n- block:\n    - ping:\n      run_once: true\n"


@pytest.mark.parametrize("name", ["before_promote", "after_promote"])
def test_a_task_that_would_run_once_a_batch_is_refused_where_batches_run_a_hook(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yml").write_text(ONCE)
    result, problems = find_hooks({name: "mine.yml"}, tmp_path)
    assert result == {}
    assert "would run once a batch; before_batches and after_batches run it once." in problems[0]


@pytest.mark.parametrize("text", ["- ping:\n  run_once: false\n", "- debug: {msg: run_once}\n"])
def test_a_task_that_does_not_run_once_may_run_in_each_batch(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yml").write_text(text)
    assert find_hooks({"before_promote": "mine.yml"}, tmp_path)[1] == []


@pytest.mark.parametrize(
    "name", ["before_deploy", "before_batches", "after_batches", "after_confirm", "before_rollback"]
)
def test_a_task_may_run_once_where_all_hosts_run_a_hook_together(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yml").write_text(ONCE)
    assert find_hooks({name: "mine.yml"}, tmp_path) == ({name: str(tmp_path / "mine.yml")}, [])


def test_what_is_no_hook_is_named_and_the_others_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("- ping:\n")
    result, problems = find_hooks({"before_deply": "mine.yml", "after_revert": "mine.yml"}, tmp_path)
    assert list(result) == ["after_revert"]
    assert problems[0].startswith("There is no hook before_deply; there are before_deploy, ")
    assert find_hooks(["mine.yml"], tmp_path) == ({}, ["The hooks are not a mapping of names to files."])


def test_a_failure_without_words_is_still_one_of_the_table() -> None:
    error = hook_failure("after_promote", "", {})
    assert (error.outcome, error.reason) == (
        "hook_failed",
        "The hook after_promote failed in a task: it gave no message.",
    )
    assert hook_failure("after_promote", "", {"mobius_failure": {"outcome": "success"}}).outcome == "hook_failed"
