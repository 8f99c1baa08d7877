#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: reaches a verdict on a release that has begun to serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Decides by an instance's answers whether its release is good
description:
  - Reads the health and the process of the instance and sends it probes, until all were good for long enough in a row.
  - Never fails for a bad verdict; the play decides, for all hosts together. It fails when it could not start (a wrong argument,
    a host that is not provisioned).
  - With O(signals), compares its metrics with those of the confirmed release over the same time, and sends both as many more probes as
    their traffic lacks samples. A signal counts as worse when a statistical test proves it; all signals together err in fewer than 1 of
    1000 gates (docs/gate.md).
  - V(fail) means that the release is bad, since it says so itself, a probe got a wrong answer, its process died, or a signal is proven
    worse than allowed. V(error) means that it did not answer at the deadline, that its metrics could not be read, or that its promotion was
    reverted meanwhile; V(inconclusive), that it was healthy, but never long enough in a row, with too few samples, or with a signal that may
    be worse. No answer is never a pass.
  - With O(signals), a probe that gets an answer of 500 or more is sent again, and proves the release bad when that happens three times in a
    row; alone, it may be the noise of a busy service.
  - The verdict is kept on the host with all that led to it, in C(gates) beside the releases; the newest 20 are.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.probes]
attributes:
  check_mode: {support: full, description: "Sends nothing, because nothing has been promoted; the verdict is V(unknown)."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  release:
    description: The release whose instance is checked.
    type: str
    required: true
  healthy_seconds:
    description: Seconds in a row for which it must be healthy, with at least half of the samples that O(interval) gives in that time.
    type: float
    default: 10
  deadline:
    description: Seconds after which there is a verdict in any case.
    type: float
    default: 60
  interval:
    description: Seconds from one sample to the next.
    type: float
    default: 0.5
  attempts:
    description: How many attempts there are while the verdict is V(error), each up to the O(deadline); the last one counts.
    type: int
    default: 1
  probes:
    description: Requests that are sent in turn, one with each sample; a wrong response is V(fail).
    type: list
    elements: dict
    default: []
  metrics_path:
    description: The path of the metrics of each instance, in the text format of Prometheus.
    type: str
    default: /metrics
  signals:
    description: What is compared with the confirmed release. When there is none, or it does not answer, only the limits count.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: "Its name, for messages, for example V(error rate).", type: str, required: true}
      part: &selectors
        description: >-
          Which series to add up. A rate is O(signals[].part) of O(signals[].whole); a quantile is of the buckets (C(..._bucket)) that
          O(signals[].histogram) names instead.
        type: list
        elements: dict
        suboptions:
          metric: {description: "The name of the metric.", type: str, required: true}
          where: {description: "A regular expression for each label that counts; it must match the complete value.", type: dict, default: {}}
      whole: *selectors
      histogram: *selectors
      quantile: {description: "Which quantile of the histogram.", type: float, default: 0.95}
      times: &times {description: "How many times the confirmed release's figure is allowed.", type: float, default: 1.0}
      floor: &floor {description: "A figure up to this one is always allowed, so that three times nothing is still nothing.", type: float, default: 0.0}
      limit: &limit {description: "A figure over this one is never allowed, whatever the confirmed release has.", type: float}
      limit_alone: &limit_alone {description: "A figure over this one is not allowed without a confirmed release to compare with.", type: float}
      samples: &samples {description: "How many samples both need before the signal may pass.", type: int, default: 600}
  front_signals:
    description:
      - What is compared of any service, as HAProxy and the traffic receiver count it for each release.
        Ignored for another service.
      - Users' requests and probes are tested each by themselves, and share the signal's part of the errors; only O(front_signals[].samples)
        are counted of both together. Without O(probes), the health path is the probe.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: "Its name; V(users') and V(probes') are put before it.", type: str, required: true}
      quantile:
        description: Which quantile of the seconds until a response begins. Without it, the signal is the share of requests that failed.
        type: float
      times: *times
      floor: *floor
      limit: *limit
      limit_alone: *limit_alone
      samples: *samples
  user_samples:
    description:
      - How many requests of users a release must have got before it passes, where users are there. It waits for them up to
        the O(deadline), unless less than a tenth would come by then; a pass with fewer says so. V(0) waits for none.
    type: int
    default: 0
  run:
    description: The run, for the evidence.
    type: str
  progress_file:
    description:
      - A file on the host that gets the figures after each sample, as a JSON object. A failed write is no error.
      - C(mobius) sets it, to show the figures while the gate runs.
    type: path
"""

EXAMPLES = r"""
- name: Run the gate on the new release
  mobius.dhash.gate:
    service: mobius-dhash
    release: 1.2.0-0123456789ab
    healthy_seconds: 10
    deadline: 60
  register: __promote_gate
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail), V(inconclusive), V(error); V(unknown) in check mode.
  returned: always
  type: str
reason:
  description: Why, in one sentence.
  returned: always
  type: str
evidence:
  description: >-
    C(samples), the longest C(healthy_seconds) in a row, C(values) and C(series), one entry a sample; C(values.reference) is the confirmed release's
    own health, C(values.signals) each signal of both with what was counted, whose requests these were (C(source): V(users), V(probes), or V(service) for
    what a service counts itself), its C(p_value) and the C(alpha) of the last check; C(values.user_requests) those of users.
  returned: always
  type: dict
evidence_file:
  description: Where the host keeps it.
  returned: when there were samples
  type: str
predicted:
  description: V(unknown).
  returned: in check mode
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.comparison import SIGNAL_SPEC
from ansible_collections.mobius.dhash.plugins.module_utils.front_signals import FRONT_SIGNAL_SPEC
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probing import PROBES
from ansible_collections.mobius.dhash.plugins.module_utils.gate.run import run_gate
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import require_tool
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            "release": {"type": "str", "required": True},
            "healthy_seconds": {"type": "float", "default": 10.0},
            "deadline": {"type": "float", "default": 60.0},
            "interval": {"type": "float", "default": 0.5},
            "probes": {**PROBES, "default": []},
            "attempts": {"type": "int", "default": 1},
            "metrics_path": {"type": "str", "default": "/metrics"},
            "signals": {"type": "list", "elements": "dict", "default": [], "options": SIGNAL_SPEC},
            "front_signals": {"type": "list", "elements": "dict", "default": [], "options": FRONT_SIGNAL_SPEC},
            "user_samples": {"type": "int", "default": 0},
            "run": {"type": "str"},
            "body_dir": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module, changed=False):
        settings = GateSettings.parse(params)
        host = require_tool(params["service"], params["config_dir"])
        if module.check_mode:
            reason = f"{params['release']} was not measured: nothing is promoted in check mode."
            evidence = {"samples": 0, "healthy_seconds": 0.0, "values": {}}
            module.exit_json(changed=False, verdict="unknown", predicted="unknown", reason=reason, evidence=evidence)
        verdict, path = run_gate(
            host,
            params["release"],
            settings,
            run=params["run"],
            progress_file=params["progress_file"],
        )
    module.exit_json(
        changed=False,
        verdict=verdict.verdict,
        reason=verdict.reason,
        evidence=verdict.evidence,
        evidence_file=str(path),
    )


if __name__ == "__main__":
    main()
