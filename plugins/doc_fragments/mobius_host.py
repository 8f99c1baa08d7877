# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the options that modules share; `module_utils/arguments.py` has their specification."""

from __future__ import annotations


class ModuleDocFragment:
    """`mobius.dhash.mobius_host`, with the parts `run`, `opened`, `lease` and `probes`."""

    DOCUMENTATION = r"""
options:
  service:
    description: The service, as C(mobius-host) knows it on the host.
    type: str
    required: true
  config_dir:
    description: Folder of the services' descriptions on the host.
    type: path
    default: /etc/mobius-host
"""

    RUN = r"""
options:
  run:
    description: Id of the run.
    type: str
"""

    OPENED = r"""
options:
  opened_run:
    description: Id of the run that was opened for this host, which the action plugin passes on. No task sets it.
    type: str
  runs_dir:
    description: Folder on the host of the runs that were opened for it.
    type: path
    default: /run/mobius-host/runs
"""

    LEASE = r"""
options:
  lease:
    description:
      - Refuse with C(fenced) unless O(run) holds the lock of the host (M(mobius.dhash.lease)), which this renews.
    type: bool
    default: false
"""

    # a module describes its option `probes` itself; what a probe has is here
    PROBES = r"""
options:
  probes:
    type: list
    elements: dict
    suboptions:
      name: {description: "The name, for messages.", type: str, required: true}
      method: {description: "The HTTP method.", type: str, choices: [GET, POST], default: GET}
      path: {description: "The path, with its query.", type: str, required: true}
      content_type: {description: "The type of the body.", type: str}
      body_base64: {description: "The body.", type: str}
      body_file:
        description: >-
          A file on the control node with the body, beside the playbook, in the role's C(files) or under O(body_dir).
        type: path
      status: {description: "The expected status.", type: int, default: 200}
      json:
        description: What the JSON object of the response must hold; other keys do not matter.
        type: dict
  body_dir:
    description: The folder on the control node that C(body_file) is relative to.
    type: path
"""
