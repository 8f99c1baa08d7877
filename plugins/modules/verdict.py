# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verdict
short_description: Notes the verdict on one host
description:
  - The registered result is what M(mobius.dhash.decide) and M(mobius.dhash.hold_back) read of each host.
  - With O(gate), the verdict of the gate. Without it, for the rescue of a block, V(error) with the failure of the block.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: Runs on the control node alone.}
  check_mode: {support: full, description: Gives the same result in check mode.}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  gate:
    description: Result of M(mobius.dhash.gate).
    type: dict
  reason:
    description: What the failure means. The reason of the failed task follows it, and its outcome is not passed on.
    type: str
"""

EXAMPLES = r"""
- name: Note the verdict of the gate
  mobius.dhash.verdict:
    gate: "{{ __promote_gate }}"
  register: __promote_result
"""

RETURN = r"""
verdict:
  description: V(pass), V(unknown) (check mode), V(inconclusive), V(error) or V(fail).
  returned: success
  type: str
reason:
  description: One sentence.
  returned: success
  type: str
evidence:
  description: What the gate measured.
  returned: with O(gate)
  type: dict
failure:
  description: The C(mobius_failure) of the failed task, empty when it carried none.
  returned: in a rescue, without O(reason)
  type: dict
"""
