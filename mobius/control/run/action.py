# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the action plugins share that work only on the control node."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants
from ansible.plugins.action import ActionBase

from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError


def current_workspace() -> RunWorkspace:
    """The temporary files of the run that this process belongs to."""
    return RunWorkspace.of_process(os.environ, Path(constants.DEFAULT_LOCAL_TMP))


def warning(sentences: Sequence[str]) -> dict[str, Any]:
    """A part of a result that is shown whatever the verbosity.

    The key `warnings` is not: in a play whose hosts do not wait for each other, ansible-runner gets them within other
    events only, and `mobius` would not show them.
    """
    return {"msg": f"warning: {' '.join(sentences)}", "_ansible_verbose_always": True} if sentences else {}


def refusal_of_the_run(reason: str) -> str:
    """What a check run says where the run itself would be refused: it goes on, as its plan is what people decide by."""
    return f"The run itself would be refused now: {reason}"


class ControlNodeAction(ActionBase):  # type: ignore[misc]
    """Changes no host, needs none, and works in check mode. A `MobiusError` of `answer` is the task's failure.

    Attributes:
        arguments: the argument specification, as a module has it.
        required_by: arguments that need others.
    """

    _requires_connection = False

    arguments: ClassVar[dict[str, dict[str, Any]]] = {}
    required_by: ClassVar[dict[str, tuple[str, ...]]] = {}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the arguments, and give the result in Ansible's form."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(argument_spec=self.arguments, required_by=self.required_by)
        try:
            answer = self.answer(arguments, task_vars or {})
        except MobiusError as error:
            answer = {"failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        return {**result, "changed": False, **answer}

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The task's result; `arguments` are the task's, checked."""
        raise NotImplementedError
