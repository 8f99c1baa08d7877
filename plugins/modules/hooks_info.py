# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hooks_info
short_description: Finds the task files that run around the phases of a release
description:
  - Refuses an unknown hook and a file that is missing or no list of tasks with C(invalid_input), before anything changes.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node alone."}
  check_mode: {support: full, description: "Gives the same result in check mode."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  hooks:
    description:
      - Path of a task file by the name of the hook. A relative path begins in the folder of the inventory. An empty one is none.
      - The names are C(before_deploy), C(after_deploy), C(before_batches), C(before_promote), C(after_promote),
        C(after_batches), C(after_confirm), C(after_revert),
        C(before_rollback) and C(after_rollback).
    type: raw
    required: true
  optional:
    description: Warn of what cannot be run and leave it out.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Find the hooks
  mobius.dhash.hooks_info:
    hooks:
      before_promote: hooks/drain.yml
  register: hooks
"""

RETURN = r"""
hooks: {description: "The absolute path of each hook that is set.", returned: success, type: dict}
"""
