# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hook_failed
short_description: Ends a phase because its hook failed, or only warns
description:
  - For the rescue of a block that runs a hook. Fails with C(hook_failed), or with the outcome of the hook's failed task.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node alone."}
  check_mode: {support: full, description: "Gives the same result in check mode."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  hook:
    description: Name of the hook.
    type: str
    required: true
  optional:
    description: Only warn, because nothing may stand in the way of this phase.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run a smoke test
  block:
    - name: Run its tasks
      ansible.builtin.include_tasks: smoke.yml
  rescue:
    - name: Refuse the release
      mobius.dhash.hook_failed:
        hook: after_promote
"""

RETURN = r"""
mobius_failure:
  description: What failed, for programs, as M(mobius.dhash.failure) returns it.
  returned: when O(optional=false)
  type: dict
"""
