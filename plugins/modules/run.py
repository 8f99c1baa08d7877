# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Opens the run
description:
  - First task of every play that can change a host. All hosts and plays of one run get the same id.
  - Records the run's intent in the history on the control node, on the disk, before anything else happens. If it cannot, the
    task fails on every host, and nothing changes anywhere.
  - Each host then keeps the history's head (M(mobius.dhash.witness)), but not in check mode.
  - The folder of the history is the variable C(mobius_history_dir), else the environment variable E(MOBIUS_HISTORY_DIR), else
    in C(~/.local/state/mobius/history). The variable C(mobius_history_key) names an SSH key that signs its head.
  - Where the inventory requires a plan (C(mobius_approvals_required), C(mobius_approvals_roles), C(mobius_plan_proven_on)), the
    run is refused on a host unless the variable C(mobius_plan) names one that is undamaged, not too old, approved by that rule, within
    C(mobius_change_window), and made of the same files, variables and state of the host. A reason in C(mobius_break_glass)
    waives plan, approvals, age, window and proof, and is recorded. In check mode a refusal is returned as a finding.
  - C(mobius) hands the id down in the environment variable E(MOBIUS_RUN_ID); a plain C(ansible-playbook) makes one.
  - The actor is E(MOBIUS_ACTOR), else the user who logged in, at the control node.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Records on the control node, then runs on the host."}
  check_mode: {support: full, description: "Gives the same result in check mode."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  approval:
    description: Whether the inventory's rule for plans holds for this play. A rollback, and what only saves, needs none.
    type: bool
    default: true
  new_chain:
    description:
      - Whether a host refuses the run when it has witnessed another history of runs and nothing of this one (V(refuse), with the
        outcome V(other_history)), or accepts it. A rollback is never refused.
      - The extra variable C(mobius_new_chain) is a reason with which every host accepts. The new history records it with the
        last known head of each history that the host has witnessed; so does the one before, if the inventory still names it.
    type: str
    choices: [refuse, accept]
    default: refuse
  required:
    description: Whether a run that cannot be recorded fails. A rollback goes on with a warning; its hosts keep it in their journals.
    type: bool
    default: true
  witness:
    description:
      - Whether hosts keep the head now.
      - M(mobius.dhash.rollback) has them keep the fact C(mobius_run_head) itself, so its play contacts no host before the rollback.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Begin the run
  mobius.dhash.run:
"""

RETURN = r"""
run:
  description: The run id, sortable by time, also the fact C(mobius_run_id).
  returned: success
  type: str
  sample: 20260131T230501Z-9f3a61c2
actor:
  description: The actor, also the fact C(mobius_run_actor).
  returned: success
  type: str
  sample: ada@control
finding:
  description: In check mode, why the run would be refused; empty when it would not.
  returned: success
  type: str
state:
  description: The host's fingerprint for a plan; null when the host knows no service.
  returned: when C(mobius plan) has started the run
  type: dict
release:
  description: The release that the host had confirmed when the run began; null when there is none.
  returned: in the run's first play on the host
  type: str
other_chains:
  description: The last known head of each other history that the host has witnessed.
  returned: when the host was to keep the head, and there is one
  type: list
  elements: dict
witnessed:
  description: Whether the host keeps the history's head, also a fact for the run's later plays; in check mode always false.
  returned: in each play until it does; in check mode in the first
  type: bool
"""
