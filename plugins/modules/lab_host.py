#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the lab's hosts to the requested state."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_host
short_description: Bring the lab's hosts to the requested state
version_added: "1.0.0"
description:
  - The lab is a set of systemd containers that Ansible reaches over SSH on 127.0.0.1. Each folder O(root) (a checkout, or
    a project folder of yours) has its own lab, named after that folder, and knows its containers by their label.
  - Keys, known hosts and the ports are kept in the folder C(.lab) of O(root).
  - A host that was stopped is started. One whose creation was interrupted, or that was made from another image, other
    ports or other keys, is recreated. A host keeps its ports as long as no other program uses them.
options:
  root:
    description: The folder that the lab belongs to.
    type: path
    required: true
  hosts:
    description: The names of all hosts of the lab; others of the same lab are removed.
    type: list
    elements: str
    default: []
  image:
    description: The image to make hosts from, from M(mobius.dhash.lab_image).
    type: str
  debian:
    description: The Debian release of O(image), to be recorded.
    type: str
    default: bookworm
  service_port:
    description: The port inside a host on which its service answers.
    type: int
    default: 8080
  extra_ports:
    description: Further ports inside a host to publish on 127.0.0.1.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds in which all hosts have to boot and answer over SSH.
    type: int
    default: 90
  state:
    description:
      - V(present) brings the lab to exactly O(hosts).
      - V(absent) removes every container of this lab, leftovers of killed runs too, and its folder C(.lab).
    type: str
    choices: [present, absent]
    default: present
requirements:
  - podman and ssh on the control node, and root
attributes:
  check_mode:
    support: full
    description: Reports what would be made, started or removed, and changes nothing.
  diff_mode:
    support: full
    description: Shows each host before and after.
author: MOBIUS contributors (@mobius)
"""

EXAMPLES = r"""
- name: Bring up three hosts
  mobius.dhash.lab_host:
    root: /home/me/mobius
    hosts: [lab1, lab2, lab3]
    image: localhost/mobius-lab:bookworm-3f2a9c41d07e
  delegate_to: localhost

- name: Remove the lab
  mobius.dhash.lab_host:
    root: /home/me/mobius
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
lab:
  description: The lab's id, made from the real path of O(root).
  returned: success
  type: str
  sample: 1f0c92ab
hosts:
  description: The action on each host, and the ports that lead to it.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The host's name.
      type: str
    action:
      description: One of keep, start, resume, create, recreate, remove.
      type: str
    why:
      description: The reason for the action.
      type: str
    ssh_port:
      description: The port on 127.0.0.1 that leads to its SSH server.
      type: int
    http_port:
      description: The port on 127.0.0.1 that leads to its service.
      type: int
    failed_units:
      description: The systemd units that failed at boot.
      type: list
      elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab import hosts
from ansible_collections.mobius.dhash.plugins.module_utils.lab.folder import LabFolder
from ansible_collections.mobius.dhash.plugins.module_utils.lab.plan import validate_request
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import PodmanError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "image": {"type": "str"},
            "debian": {"type": "str", "default": "bookworm"},
            "service_port": {"type": "int", "default": 8080},
            "extra_ports": {"type": "list", "elements": "int", "default": []},
            "timeout": {"type": "int", "default": 90},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    timeout, check_mode = module.params["timeout"], module.check_mode
    try:
        expected = validate_request(module.params, Path(module.params["root"]))
        folder = LabFolder(Path(module.params["root"]))
        with hosts.exclusive(folder, timeout=timeout, check_mode=check_mode):
            if module.params["state"] == "present":
                result = hosts.bring_up(folder, expected, timeout=timeout, check_mode=check_mode)
            else:
                result = hosts.remove_all(folder, expected.lab, check_mode=check_mode)
    except MobiusError as error:
        module.fail_json(msg=error.reason, mobius_failure=error.as_dict())
    except (PodmanError, OSError) as error:
        failure = MobiusError("environment_failed", f"The lab could not be changed: {error}")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
