#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: refuses a host that a bundle cannot or must not be deployed to."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Refuses a deploy that does not fit on a host's disks, was marked bad there, or is a downgrade
description:
  - Runs before anything changes.
  - A host with a list of signers refuses with C(bundle_unsigned) a bundle that none of them signed, whatever it has staged or
    confirmed already. Nothing else is checked on a host that has confirmed the release.
  - Refuses with C(disk_full) when the disks have not the space for the backup and the release together, C(release_bad) when the host has
    marked the release bad, C(bundle_platform) when the bundle needs another Python or platform than the host has, and C(downgrade) when the version is lower than the confirmed one's, in the order of the
    version specifiers of Python packages. Versions in other forms have no order, and are never refused.
  - A backup that would write nothing, because nothing changed, needs nothing; a release that is staged needs nothing either.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host]
attributes:
  check_mode: {support: full, description: "Never changes anything."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  expect:
    description: What the bundle holds, as M(mobius.dhash.bundle_info) returns it.
    type: dict
    required: true
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
  backup:
    description: What is backed up before the deploy; V(none) when nothing is.
    type: str
    choices: [full, state, none]
    default: none
  downgrade:
    description: Allow a version that is lower than the confirmed one's.
    type: bool
    default: false
  retry_bad:
    description: Allow a release that was marked bad on this host.
    type: bool
    default: false
  python:
    description: The Python on the host that will run the release.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Read the bundle
  mobius.dhash.bundle_info:
    path: dist/mobius-dhash-1.2.0.tar.gz
  register: bundle

- name: Refuse a host with too little space
  mobius.dhash.preflight:
    service: mobius-dhash
    expect: "{{ bundle.expect }}"
    backup: full
"""

RETURN = r"""
signer: {description: "The signer of the bundle; null on a host without a list of signers.", returned: success, type: str}
revision: {description: "What the bundle becomes on the host: its release with the digest of the configuration.", returned: success, type: str}
confirmed: {description: "The release that the host has confirmed; null when there is none.", returned: success, type: str}
release_bytes: {description: "Bytes that staging needs, with the copy of the bundle and a reserve.", returned: success, type: int}
backup_bytes: {description: "Upper limit of the bytes that the backup needs.", returned: success, type: int}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, preflight, staging
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import SCOPES
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import require_tool
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            "expect": {**staging.EXPECT, "required": True},
            "backup": {"type": "str", "choices": [*SCOPES, preflight.NO_BACKUP], "default": preflight.NO_BACKUP},
            "downgrade": {"type": "bool", "default": False},
            "retry_bad": {"type": "bool", "default": False},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module, changed=False):
        result = preflight.check_deploy(
            require_tool(params["service"], params["config_dir"]),
            params["expect"],
            backup=params["backup"],
            allow_downgrade=params["downgrade"],
            retry_bad=params["retry_bad"],
            python=params["python"],
            scratch=Path(module.tmpdir),
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
