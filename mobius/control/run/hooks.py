# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's task files, which run around the phases of a release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mobius.errors import OUTCOMES, MobiusError

NAMES = (
    "before_deploy",
    "after_deploy",
    "before_batches",
    "before_promote",
    "after_promote",
    "after_batches",
    "after_confirm",
    "after_revert",
    "before_rollback",
    "after_rollback",
)


_PER_BATCH = ("before_promote", "after_promote")
"""These run for each batch of hosts, so a task with run_once would run as often as there are batches."""


def find_hooks(hooks: Any, folder: Path) -> tuple[dict[str, str], list[str]]:
    """The absolute path of each hook that can be run, and one sentence for each that cannot.

    Args:
        hooks: what the user set, as `{name: path}`; an empty path is a hook that is not set.
        folder: where relative paths begin.
    """
    if not isinstance(hooks, Mapping):
        return {}, ["The hooks are not a mapping of names to files."]
    found, problems = {}, []
    for name, value in hooks.items():
        if name not in NAMES:
            problems.append(f"There is no hook {name}; there are {', '.join(NAMES)}.")
        elif value:
            path = folder / Path(str(value)).expanduser()
            problem = _problem(path, is_per_batch=name in _PER_BATCH)
            if problem:
                problems.append(f"The hook {name} cannot be run: {path} {problem}.")
            else:
                found[name] = str(path)
    return found, problems


def _problem(path: Path, *, is_per_batch: bool) -> str | None:
    try:
        text = path.read_bytes()
        if text.startswith(b"$ANSIBLE_VAULT;"):
            return None  # Ansible sees what is in it
        tasks = yaml.compose(text)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except yaml.YAMLError:
        return "is no YAML"
    if not isinstance(tasks, yaml.SequenceNode):
        return "is no list of tasks"
    if is_per_batch and _has_run_once(tasks):
        return "has a task with run_once, which would run once a batch; before_batches and after_batches run it once"
    return None


def _has_run_once(node: yaml.Node) -> bool:
    """Whether a task of a list, or one in its blocks, has run_once."""
    if isinstance(node, yaml.SequenceNode):
        return any(_has_run_once(item) for item in node.value)
    if not isinstance(node, yaml.MappingNode):
        return False
    keys = {key.value: value for key, value in node.value}
    once = keys.get("run_once")
    if isinstance(once, yaml.ScalarNode) and once.value.lower() not in ("false", "no", "off"):
        return True
    return any(_has_run_once(keys[part]) for part in ("block", "rescue", "always") if part in keys)


def hook_failure(name: str, task: str, result: Mapping[str, Any]) -> MobiusError:
    """What a failed task of a hook means: what it says itself, else that the hook failed."""
    carried = result.get("mobius_failure")
    if isinstance(carried, Mapping) and carried.get("outcome") in OUTCOMES and carried.get("outcome") != "success":
        reason = f"The hook {name} refused: {carried.get('reason')}"
        return MobiusError(str(carried["outcome"]), reason, do_next=str(carried.get("do_next") or "") or None)
    message = " ".join(str(result.get("msg") or "").split()) or "it gave no message."
    return MobiusError("hook_failed", f"The hook {name} failed in {task or 'a task'}: {message}")
