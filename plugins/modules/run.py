# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Gives the run its id
description:
  - First task of every play that can change a host. All hosts and plays of one run get the same id.
  - C(mobius) hands the id down in the environment variable E(MOBIUS_RUN_ID); a plain C(ansible-playbook) makes one.
  - The actor is E(MOBIUS_ACTOR), else the user who logged in, at the control node.
version_added: "0.1.0"
author: MOBIUS contributors
attributes:
  action: {support: full, description: Runs on the control node.}
  check_mode: {support: full, description: Gives the same result in check mode.}
  diff_mode: {support: full, description: Never changes anything, so there is no difference to show.}
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
  description: Who asked, also the fact C(mobius_run_actor).
  returned: success
  type: str
  sample: ada@control
"""
