#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Removes the releases that a host no longer keeps."""

from __future__ import annotations

DOCUMENTATION = r"""
module: retention
short_description: Removes the releases that a host no longer keeps
description:
  - Keeps the newest healthy releases by the time of their last confirmation, and removes older ones and those that are marked bad.
  - Never removes what is confirmed or pending, the target of a rollback, what is pinned or runs, what the newest complete
    backup was made under, nor a release that was never tried on this host.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the staged releases before and after."}
options:
  keep:
    description: How many healthy releases are kept, at least one.
    type: int
    default: 5
  confirmed:
    description: In check mode, the release that earlier tasks of the run have predicted to be confirmed.
    type: str
  assume_staged:
    description: In check mode, that earlier tasks have predicted that the host is backed up and O(confirmed) staged.
    type: bool
    default: false
  unlock:
    description: Release the lock of the host in the end, if O(run) holds it, as M(mobius.dhash.lease) does.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep five healthy releases
  mobius.dhash.retention:
    service: mobius-dhash
    keep: 5
"""

RETURN = r"""
removed:
  description: The releases that were removed, or in check mode would be.
  returned: success
  type: list
  elements: str
unlocked:
  description: Whether the run no longer holds the lock of the host, as O(unlock) requests.
  returned: success
  type: bool
"""

import contextlib
import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import surplus_releases
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor, Observation
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import Promotion
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import release_of
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure
from ansible_collections.mobius.dhash.plugins.module_utils.release_state import remove_staged


def _required_releases(host: Host) -> set[str]:
    """The release under which the newest good backup was made; all backups together would keep every release."""
    releases = [backup.release for backup in list_backups(host) if backup.is_good and backup.release is not None]
    return set(releases[-1:])


def _predict_promotion(observation: Observation, release: str, *, assume_staged: bool) -> Observation:
    """The host as its promotion will have left it: the instance that stood by is stopped, and its release may be
    removed."""
    promotion = Promotion(release, "confirmed", Actor("ansible"), predicted=True, assume_staged=assume_staged)
    return dataclasses.replace(
        promotion.plan(observation).after, staged=observation.staged | {release, release_of(release)}
    )


def main() -> None:
    """Read the arguments, remove the surplus releases, report."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            "keep": {"type": "int", "default": 5},
            "confirmed": {"type": "str"},
            "assume_staged": {"type": "bool", "default": False},
            **arguments.RUN,
            "unlock": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    keep = module.params["keep"]
    with report_failure(module):
        if keep < 1:
            raise MobiusError("invalid_input", f"keep is {keep}, but at least one healthy release must be kept.")
        executor = open_executor(module)
        host = executor.host
        if not module.check_mode:
            # what the promotion has just stopped may still run, and no check run knows for how long
            for release in surplus_releases(executor.observe(), keep, required=_required_releases(host)):
                executor.wait_until_stopped(release)
        with contextlib.nullcontext() if module.check_mode else executor.locked():
            observation = executor.observe()
            required = _required_releases(host)
            confirmed = module.params["confirmed"]
            if module.check_mode and confirmed and confirmed != observation.activation.confirmed:
                if module.params["assume_staged"]:  # then the newest backup is made under what is confirmed now
                    required = {observation.activation.confirmed} - {None}
                observation = _predict_promotion(observation, confirmed, assume_staged=module.params["assume_staged"])
            removed = surplus_releases(observation, keep, required=required)
            for release in removed if not module.check_mode else ():
                remove_staged(host, release)
        is_unlocked = bool(module.params["unlock"] and module.params["run"])
        if is_unlocked:
            lease.release(executor, module.params["run"], check=module.check_mode)
    before, after = sorted(observation.staged), sorted(observation.staged - set(removed))
    module.exit_json(
        changed=bool(removed),
        removed=removed,
        unlocked=is_unlocked,
        diff={"before": {"staged": before}, "after": {"staged": after}},
    )


if __name__ == "__main__":
    main()
