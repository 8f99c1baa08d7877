#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: verifies that a release can serve from the newest backup of a service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_drill
short_description: Verifies that a release can serve from the newest backup
description:
  - Restores the newest full backup into a separate folder, starts the release that wrote it there in standby, under the
    sandbox of its own unit and without a public socket, until its health and its index answer, and removes all of it.
  - The live state and the instances that serve are not changed. The outcome is recorded in the backup folder.
  - On a host without any release the data alone is verified.
  - An observation, so it is never reported as a change.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Verifies the backup, reports which release would be started, and predicts no more (C(predicted=unknown))."}
  diff_mode: {support: full, description: "Nothing that lasts is changed, so there is no difference to show."}
options:
  state:
    description:
      - V(drilled) runs a drill.
      - V(recent) only refuses a host whose last successful drill is older than O(max_age_days). A host that never had a
        release has nothing to lose, and is not refused.
    type: str
    choices: [drilled, recent]
    default: drilled
  max_age_days:
    description: With O(state=recent), how old the last successful drill may be.
    type: float
  name:
    description: The name of this host, which the backup must be of; the kernel's when left out.
    type: str
  environment:
    description: The instance's environment, added to that of its unit, so that it stands by without a public socket.
    type: dict
    default: {}
  probes:
    description: Requests to the instance and the expected responses, as M(mobius.dhash.probe) has them, but for files.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: "Its name, for messages.", type: str, required: true}
      method: {description: "The HTTP method.", type: str, choices: [GET, POST], default: GET}
      path: {description: "The path, with its query.", type: str, required: true}
      content_type: {description: "The type of the body.", type: str}
      body_base64: {description: "The body.", type: str}
      status: {description: "The expected status.", type: int, default: 200}
      json: {description: "What the response's JSON object must hold.", type: dict}
  count:
    description: A number that the restored database holds and the instance must report.
    type: dict
    suboptions:
      database: {description: "An SQLite database below the state folder.", type: str, required: true}
      query: {description: "Gives one row with the number.", type: str, required: true}
      path: {description: "Where the instance reports it.", type: str, required: true}
      key: {description: "The member of the JSON object there.", type: str, required: true}
  command_config_dir:
    description:
      - Where the settings of C(mobius-backup) lie. They name the folder whose metrics for Prometheus are written with
        every backup, verification and drill; without them, there are none.
    type: path
    default: /etc/mobius-backup
"""

EXAMPLES = r"""
- name: Verify that the release can serve from the newest backup
  mobius.dhash.restore_drill:
    service: mobius-dhash
    probes:
      - {name: the index, path: "/v1/duplicates?limit=1"}
    count:
      database: index/index.sqlite3
      query: SELECT count(*) FROM pictures
      path: /metrics/dhash
      key: images

- name: Refuse a host without a drill in the last month
  mobius.dhash.restore_drill:
    service: mobius-dhash
    state: recent
    max_age_days: 31
"""

RETURN = r"""
backup: {description: "The backup.", returned: "with O(state=drilled)", type: str}
release: {description: "The release that was started on it; empty on a host that has none.", returned: "with O(state=drilled)", type: str}
files: {description: "How many files were restored.", returned: "with O(state=drilled)", type: int}
counted: {description: "The number that the database holds and the instance reported.", returned: "with O(state=drilled) and O(count)", type: int}
seconds: {description: "How long the drill took.", returned: "with O(state=drilled)", type: float}
predicted: {description: "V(unknown).", returned: "in check mode with O(state=drilled)", type: str}
last: {description: "When the last successful drill was, RFC 3339; empty when there was none.", returned: "with O(state=recent)", type: str}
journal:
  description: The last lines that the instance wrote.
  returned: when the instance failed or did not answer
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.backup.drill import require_recent, run_drill
from ansible_collections.mobius.dhash.plugins.module_utils.backup.drill_instance import DrillChecks
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import update_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import CONFIG_DIR
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import PROBE_SPEC
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import require_tool
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Read the arguments, run the drill, report."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            "state": {"type": "str", "choices": ["drilled", "recent"], "default": "drilled"},
            "max_age_days": {"type": "float"},
            "name": {"type": "str"},
            "environment": {"type": "dict", "default": {}},
            "probes": {"type": "list", "elements": "dict", "default": [], "options": PROBE_SPEC},
            "count": {"type": "dict", "options": dict.fromkeys(("database", "query", "path", "key"), text)},
            "command_config_dir": {"type": "path", "default": CONFIG_DIR},
        },
        required_if=[("state", "recent", ["max_age_days"])],
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module):
        host = require_tool(params["service"], params["config_dir"])
        if params["state"] == "recent":
            module.exit_json(changed=False, last=require_recent(host, params["max_age_days"]) or "")
        checks = DrillChecks.parse(params["environment"], params["probes"], params["count"])
        with update_metrics(host, params["command_config_dir"], module.warn, read_only=module.check_mode):
            drill = run_drill(host, checks, host_name=params["name"], check_mode=module.check_mode)
    module.exit_json(
        changed=False,
        backup=drill.backup.id,
        release=drill.release or "",
        **({"predicted": "unknown"} if module.check_mode else {}),
        files=drill.files,
        counted=drill.counted,
        seconds=drill.seconds,
    )


if __name__ == "__main__":
    main()
