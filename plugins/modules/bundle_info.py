# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_info
short_description: Reads and checks a bundle on the control node
description:
  - Compares every digest in the bundle and the C(.sha256) beside it, and returns the release's id.
  - Fails with C(bundle_invalid) when the bundle is not what was built.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node."}
  check_mode: {support: full, description: "Gives the same result in check mode."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  path:
    description: The bundle, relative to the folder in which the run was started.
    type: str
    required: true
  sha256:
    description: The digest that the bundle must have.
    type: str
"""

EXAMPLES = r"""
- name: Read the bundle
  mobius.dhash.bundle_info:
    path: "{{ mobius_bundle }}"
  register: __deploy_bundle
  run_once: true
"""

RETURN = r"""
path: {description: "Absolute path of the bundle.", returned: success, type: str}
release: {description: "Release id.", returned: success, type: str, sample: 1.0.0-0123456789ab}
service: {description: "The service that the bundle holds.", returned: success, type: str}
version: {description: "Its version.", returned: success, type: str}
commit: {description: "The commit it was built from; null for a packed folder.", returned: success, type: str}
python: {description: "Python of the hosts that it fits; null for any host.", returned: success, type: str, sample: "3.11"}
platform: {description: "Platform of the hosts that it fits; null for any host.", returned: success, type: str, sample: linux_x86_64}
sha256: {description: "SHA-256 of the bundle file.", returned: success, type: str}
tree_sha256: {description: "Digest of the tree in it.", returned: success, type: str}
size: {description: "Size of the bundle file in bytes.", returned: success, type: int}
expect: {description: "What a host compares itself with (M(mobius.dhash.preflight)).", returned: success, type: dict}
"""
