# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: decide
short_description: Decides for all hosts of a play whether to confirm or to revert
description:
  - Reads one registered result of B(every) host of the play, those of other batches, failed and unreachable ones too.
  - The decision is C(confirm) only when every host is still in the play and its result has C(verdict=pass).
  - A host that is missing, failed, unreachable or silent, or any other verdict, makes it C(revert).
  - In check mode the verdict C(unknown) of an observation that could not be made does not stand in the way.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node, once with C(run_once) or on each host alike."}
  check_mode: {support: full, description: "Predicts that a verdict which is unknown in check mode will be good."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  result:
    description:
      - Name of a variable of each host, with C(verdict), C(reason) and C(evidence) as the module C(gate) returns them.
      - Where a task failed instead, its C(mobius_failure) (also as C(failure)) stands for both.
    type: str
    required: true
  run:
    description:
      - Id of the run, as M(mobius.dhash.run) opened it. The decision is then recorded in its history, durably, with the digest of each
        host's evidence, before any host hears of it. When that fails, the decision is to revert. Nothing is recorded in check mode.
    type: str
  about:
    description: Further fields of the record, of C(service), C(release), C(why) and C(batches).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Decide for the fleet
  mobius.dhash.decide:
    result: __promote_result
  register: __promote_decision
  run_once: true

- name: Fail with what was decided
  mobius.dhash.failure:
    failure: "{{ __promote_decision.failure }}"
  when: __promote_decision.decision == 'revert'
"""

RETURN = r"""
record:
  description: The number of the decision's record in the history.
  returned: when it was recorded
  type: int
decision:
  description: V(confirm) or V(revert).
  returned: always
  type: str
verdict:
  description: The worst verdict, of V(pass), V(unknown) (check mode), V(inconclusive), V(error) and V(fail).
  returned: always
  type: str
verdicts:
  description: The verdict on each host.
  returned: always
  type: dict
reason:
  description: All reasons in one sentence; empty when the decision is V(confirm).
  returned: always
  type: str
reasons:
  description: For each host that did not pass, one sentence.
  returned: always
  type: dict
mark_bad:
  description: Whether a host found the release bad (verdict V(fail)). A host that did not answer does not count.
  returned: always
  type: bool
failure:
  description: The C(mobius_failure) that the run ends with once every host is back; empty when the decision is V(confirm).
  returned: always
  type: dict
"""
