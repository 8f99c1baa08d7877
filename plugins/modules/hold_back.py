# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hold_back
short_description: Holds a host back when another one of the play has failed
description:
  - Fails with C(held_back) when a host has left the play, or has noted a verdict other than V(pass) and V(unknown).
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: Runs on the control node alone.}
  check_mode: {support: full, description: Gives the same result in check mode.}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  result:
    description: Name of the variable in which each host notes its verdict (M(mobius.dhash.verdict)); without it, only hosts
      that have left the play count.
    type: str
"""

EXAMPLES = r"""
- name: Hold the host back when another one has failed
  mobius.dhash.hold_back:
    result: __promote_result
"""

RETURN = r"""
failed_hosts:
  description: The hosts that have failed; empty, since the task fails otherwise.
  returned: success
  type: list
  elements: str
"""
