# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: window
short_description: Refuses a change outside of the change window
description:
  - Compares the control node's clock, in UTC, with a window of the day, and refuses with C(outside_window).
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node."}
  check_mode: {support: full, description: "Refuses nothing; what the run would be refused for is RV(finding)."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  window:
    description: Two times in UTC, V(23:00-00:00), the second one not included; empty allows any time.
    type: str
    required: true
  break_glass:
    description: A reason to change all the same. The promotion records it in the history of each host.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Refuse a change outside of the change window
  mobius.dhash.window:
    window: "23:00-00:00"
"""

RETURN = r"""
window:
  description: The window, as in the argument.
  returned: success
  type: str
finding:
  description: In check mode, why the run would be refused; empty when it would not.
  returned: success
  type: str
"""
