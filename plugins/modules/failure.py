# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name, for ansible-doc."""

from __future__ import annotations

DOCUMENTATION = r"""
module: failure
short_description: Fails with an outcome that has an exit code and a team
description:
  - Fails, with C(mobius_failure) from the table in C(mobius/errors.py).
  - Use it as the last task of a C(rescue), so that what was rescued still fails the run.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
attributes:
  action: {support: full, description: "Runs on the control node."}
  check_mode: {support: full, description: "Fails in check mode as well, what a play refuses its plan refuses; but see O(awaits_consent)."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  outcome:
    description: Name of the outcome. Needed unless O(failure) carries one.
    type: str
  reason:
    description: One clear sentence. Needed unless O(failure) carries one.
    type: str
  do_next:
    description: Overrides the advice of the table.
    type: str
  failure:
    description:
      - A C(mobius_failure) of an earlier result, which is passed on as it is.
      - When it is left out or empty, O(outcome), O(reason) and O(do_next) are used.
    type: dict
  host:
    description:
      - The registered result of M(mobius.dhash.release_info) on the host.
      - The reason then says what serves there, or that this is not known.
    type: dict
  awaits_consent:
    description:
      - Whether a person may agree to what is refused, with what the check run shows.
      - In check mode the task warns then of what the run itself would be refused for, and does not fail.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse to go on without a bundle
  mobius.dhash.failure:
    outcome: invalid_input
    reason: "mobius_bundle is not set."
    do_next: "Give -e mobius_bundle=FILE."
  when: mobius_bundle is not defined

- name: Pass on the failure of the rescued task, or report its message
  mobius.dhash.failure:
    failure: "{{ ansible_failed_result.mobius_failure | default(omit) }}"
    outcome: task_failed
    reason: "{{ ansible_failed_result.msg | default('The task gave no message.') }}"
"""

RETURN = r"""
mobius_failure:
  description: What failed, for programs.
  returned: always
  type: dict
  contains:
    code: {description: "Exit code 1 to 5.", type: int, returned: always}
    outcome: {description: "Name in the table.", type: str, returned: always}
    reason: {description: "One sentence.", type: str, returned: always}
    do_next: {description: "What a person does now.", type: str, returned: always}
    serves: {description: "The releases that serve on the host.", type: list, elements: str, returned: "with O(host), if it is known"}
"""
