#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: stages a release on a host, or removes one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stages a release on a host, or removes one
description:
  - O(state=staged) puts the release that a bundle holds beside the others. It appears complete or not at all. Nothing is started or switched.
  - The bundle is read on the control node, and sent only to a host that does not have the release yet. The host checks the digest of the file, and of
    every file in it, while it writes, and again from the disk.
  - A complete release is not changed. One whose files differ from what was built is staged again when nothing uses it
    (RV(repaired) names the differences), and refused with C(tree_damaged) when something does.
  - A host with a list of signers (the role C(host) writes it) stages only what one of them signed, and refuses anything else with
    C(bundle_unsigned), a release that is staged already as well.
  - Refuses with C(bundle_invalid), C(bundle_platform) (another Python or platform than the host's, for a bundle that needs one), or C(disk_full), before anything is written.
  - O(state=absent) removes a release with its byte code and its logs. It refuses with C(release_in_use) a release that
    serves, is pending or pinned, is the target of a rollback, or has an instance running.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.lease, mobius.dhash.mobius_host.opened]
attributes:
  action: {support: full, description: "The bundle is read on the control node and transferred when needed."}
  check_mode: {support: full, description: "Makes every check that the real run makes before it writes, and predicts; transfers nothing."}
  diff_mode: {support: full, description: "Shows the release and its state before and after."}
options:
  state:
    description: The state of the release.
    type: str
    choices: [staged, absent]
    default: staged
  bundle:
    description: The bundle on the control node; required for O(state=staged). It must match C(<bundle>.sha256) when that file lies beside it.
    type: path
  sha256:
    description: The digest that the bundle must have, compared on the control node.
    type: str
  release:
    description: The release to remove with O(state=absent); with O(state=staged), what the bundle must hold.
    type: str
  python:
    description: The Python on the host that will run the release.
    type: path
    default: /usr/bin/python3
  expect:
    description: What the bundle holds. Set by the action plugin.
    type: dict
    suboptions:
      release: {description: "The release id.", type: str, required: true}
      sha256: {description: "SHA-256 of the bundle file.", type: str, required: true}
      signature: {description: "The SSH signature beside the bundle, if there is one.", type: str}
      service: {description: "The service.", type: str, required: true}
      python: {description: "The version of Python it was built for; none in a bundle for any host.", type: str}
      platform: {description: "The platform it was built for; none in a bundle for any host.", type: str}
      needs_bytes: {description: "The space that the staged release takes.", type: int, required: true}
      bundle_bytes: {description: "The size of the bundle.", type: int, required: true}
      files: {description: "How many files and links it has.", type: int, required: true}
  src:
    description: The path of the bundle on the host. Set by the action plugin after the transfer.
    type: path
"""

EXAMPLES = r"""
- name: Stage the release
  mobius.dhash.release:
    service: mobius-dhash
    bundle: dist/mobius-dhash-1.2.0.tar.gz

- name: Remove an old release
  mobius.dhash.release:
    service: mobius-dhash
    release: 1.0.0-0123456789ab
    state: absent
"""

RETURN = r"""
release:
  description: The release id.
  returned: success
  type: str
revision:
  description: The release with the digest of the host's configuration, which is kept beside its tree.
  returned: with O(state=staged)
  type: str
signer:
  description: The signer of the bundle, by the host's list.
  returned: when the host has a list of signers
  type: str
repaired:
  description: The differences of the release that was staged before, file by file.
  returned: when there was a damaged one that nothing used
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease, release_state, staging
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            **arguments.RUN,
            **arguments.LEASE,
            "state": {"type": "str", "default": "staged", "choices": ["staged", "absent"]},
            "bundle": {"type": "path"},
            "sha256": {"type": "str"},
            "release": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "expect": staging.EXPECT,
            "src": {"type": "path"},
        },
        required_if=[("state", "staged", ("expect",)), ("state", "absent", ("release",))],
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    with report_failure(module, changed=False):
        executor = open_executor(module)
        if params["lease"] and not check:
            lease.require(executor, str(params["run"]))
        if params["state"] == "absent":
            result = release_state.remove_release(executor.host, params["release"], check=check)
        else:
            result = release_state.stage_release(
                executor.host,
                params["expect"],
                release=params["release"],
                python=params["python"],
                source=params["src"],
                check=check,
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
