# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the bodies of modules share: failures as data, the executor of a service, and who acts for which run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from . import opened_runs
from .errors import MobiusError
from .host.executor import Executor
from .host.failures import failure_result
from .host.install import require_tool
from .host.plan import Actor


@contextlib.contextmanager
def report_failure(module: AnsibleModule, **fields: Any) -> Iterator[None]:
    """End the module with `mobius_failure` when its body raises an error that a person can act on.

    A module with the arguments `OPENED` changes its host: before its body, it refuses a run that was not opened for
    this host. In check mode nothing is left on the host, and the control node has refused already.

    Args:
        fields: further keys of the failed result.
    """
    try:
        if "runs_dir" in module.params and not module.check_mode:
            opened_runs.require(module.params["runs_dir"], module.params["opened_run"])
        yield
    except (MobiusError, OSError) as error:
        module.fail_json(**{**fields, **failure_result(error)})


def actor_of(module: AnsibleModule) -> Actor:
    """Who acts, for the journal: Ansible, with the run and the reason in the arguments of the module."""
    return Actor("ansible", module.params.get("run") or None, module.params.get("reason") or None)


def open_executor(module: AnsibleModule, *, start_timeout: float | None = None) -> Executor:
    """The executor of the service that the module names.

    Args:
        start_timeout: seconds an instance may take to start, in place of the host's own.

    Raises:
        MobiusError: `not_provisioned`, or `host_tool_mismatch` when the host has another version of mobius-host.
    """
    host = require_tool(module.params["service"], module.params["config_dir"])
    return Executor(host, actor_of(module), start_timeout=start_timeout)


def lease_holder(module: AnsibleModule) -> str | None:
    """The run that must hold the lock of the host; None when it need not, or in check mode."""
    return module.params["run"] if module.params["lease"] and not module.check_mode else None
