# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: batches
short_description: Assigns the hosts of a play to batches
description:
  - Hosts of the play, in its order, failed ones too. Unlike with the keyword C(serial), the play stays one, so that the
    promotions of earlier batches can be renewed, and a lost batch ends no play.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node."}
  check_mode: {support: full, description: "Gives the same result in check mode."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  hosts:
    description: The hosts to assign; without it, those of the play that need the promotion.
    type: list
    elements: str
  release:
    description: The release that is promoted.
    type: str
  releases:
    description:
      - Name of a registered result of M(mobius.dhash.release_info). A host that serves O(release), confirmed and with nothing
        pending, needs no promotion. Without it, every host needs one.
    type: str
  sizes:
    description: Numbers of hosts, or shares of these hosts like V(25%), at least one host each; the last one is repeated.
    type: list
    elements: raw
    required: true
"""

EXAMPLES = r"""
- name: One host, a quarter, all others
  mobius.dhash.batches:
    sizes: [1, 25%, 100%]
  register: batched
"""

RETURN = r"""
hosts:
  description: The names of the hosts that are in a batch.
  returned: success
  type: list
  elements: str
batches:
  description: The names of the hosts, batch by batch.
  returned: success
  type: list
  elements: list
  sample: [[web1], [web2, web3], [web4, web5, web6, web7, web8]]
"""
