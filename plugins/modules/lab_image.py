#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make or remove the base image of the lab's hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_image
short_description: Make or remove the base image of the lab's hosts
version_added: "1.0.0"
description:
  - Makes a small Debian with systemd and an SSH server out of Debian packages, and imports it into podman. It
    needs no image registry.
  - The image is tagged with the digest of its recipe, so every checkout with the same recipe shares it, and a
    changed recipe makes a new one. Two runs at the same time make it once.
options:
  debian:
    description: The Debian release.
    type: str
    choices: [bookworm, trixie]
    default: bookworm
  mirrors:
    description:
      - Sources of the packages, in the form of C(mmdebstrap); empty for its default. They are not part of the recipe.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that making the image, or waiting for another run that makes it, may take.
    type: int
    default: 900
  state:
    description:
      - V(present) makes the image of O(debian) when it is missing.
      - V(absent) removes the images of all releases and recipes, except those that a lab's hosts still use.
    type: str
    choices: [present, absent]
    default: present
requirements:
  - podman and mmdebstrap on the control node, and root
attributes:
  check_mode:
    support: full
    description: Reports what would be made or removed, and changes nothing.
  diff_mode:
    support: full
    description: Shows the images before and after.
author: MOBIUS contributors (@mobius)
"""

EXAMPLES = r"""
- name: Make the base image
  mobius.dhash.lab_image:
    debian: bookworm
  delegate_to: localhost

- name: Remove every base image that no host uses
  mobius.dhash.lab_image:
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
image:
  description: The image's name and tag, with O(state=present).
  returned: success
  type: str
  sample: localhost/mobius-lab:bookworm-3f2a9c41d07e
seconds:
  description: Seconds that making the image took; 0 when it existed.
  returned: success
  type: float
  sample: 38.2
removed:
  description: The images that were removed.
  returned: success
  type: list
  elements: str
kept:
  description: The images that a host of some lab still uses, so they stay.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab import image
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import PodmanError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "debian": {"type": "str", "choices": ["bookworm", "trixie"], "default": "bookworm"},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 900},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params, check_mode = module.params, module.check_mode
    try:
        if params["state"] == "present":
            result = image.bring_image(
                params["debian"], params["mirrors"], timeout=params["timeout"], check_mode=check_mode
            )
        else:
            result = image.remove_images(timeout=params["timeout"], check_mode=check_mode)
    except MobiusError as error:
        module.fail_json(msg=error.reason, mobius_failure=error.as_dict())
    except (PodmanError, OSError) as error:
        failure = MobiusError("environment_failed", f"The base image could not be made or removed: {error}")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
