#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes the host a witness of the history of runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: witness
short_description: Keeps the head of the history of runs on a host
description:
  - Appends the head to the list on the host, unless it is the last one there. M(mobius.dhash.run) runs it on every host.
  - The list is evidence, not a state of the service, so it never reports a change.
  - Also keeps that the run was opened for this host, until a reboot or for a day. Modules that change a host refuse
    another run.
  - A host that cannot keep it reports RV(witnessed=false) and does not fail, so that a rollback can always run.
  - So does a host that has witnessed another history and nothing of this one, unless O(new_chain) is set.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Writes nothing in check mode."}
  diff_mode: {support: full, description: "Never reports a change, so there is no difference to show."}
options:
  head:
    description: The head, with its C(chain), C(seq), C(hash) and the C(run) that it opened; without it, none is kept.
    type: dict
  new_chain:
    description: Whether a host that has witnessed another history, and nothing of this one, keeps the head.
    type: bool
    default: false
  dir:
    description: Folder of the list on the host.
    type: path
    default: /var/lib/mobius-witness
  service:
    description: Name of the service whose confirmed release is reported.
    required: false
"""

EXAMPLES = r"""
- name: Keep the head
  mobius.dhash.witness:
    head: {chain: 0123456789abcdef, seq: 4, hash: 9f3a61c2, run: 20260131T230501Z-9f3a61c2}
    service: mobius-dhash
"""

RETURN = r"""
witnessed:
  description: Whether the host has the head now; in check mode always false.
  returned: success
  type: bool
refused:
  description: Whether the host has witnessed another history, and nothing of this one, and O(new_chain) is not set.
  returned: success
  type: bool
other_chains:
  description: The last known head of each other history that the host has witnessed.
  returned: success
  type: list
  elements: dict
release:
  description: The release that the host has confirmed; null when there is none.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, opened_runs, witness


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "head": {"type": "dict"},
            "new_chain": {"type": "bool", "default": False},
            "dir": {"type": "path", "default": witness.DIR},
            **arguments.SERVICE,
            **arguments.OPENED,
            "service": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    kept = witness.Kept("No head was given.")
    if params["head"]:
        kept = witness.keep(params["dir"], params["head"], new_chain=params["new_chain"], check=check)
        if kept.problem is not None and not check:
            module.warn(kept.problem)
    if params["opened_run"] and not check and not kept.is_refused:
        problem = opened_runs.leave(params["runs_dir"], params["opened_run"])
        if problem is not None:
            module.warn(problem)
    module.exit_json(
        changed=False,
        witnessed=kept.problem is None,
        refused=kept.is_refused,
        other_chains=kept.other_chains,
        release=witness.confirmed(params),
    )


if __name__ == "__main__":
    main()
