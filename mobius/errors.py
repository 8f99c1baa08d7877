# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exit codes, outcomes and the one exception that carries them.

One table (`OUTCOMES`) makes the exit codes of `mobius` and `mobius-host`, the `mobius_failure` of every module, and
`docs/EXIT_CODES.md`. Hosts use this same file (`plugins/module_utils/errors.py` is a link to it), so it imports the
standard library only.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class ExitCode(enum.IntEnum):
    """What a process ends with, and thereby which team is woken."""

    SUCCESS = 0
    INPUT = 1
    PROCESSING = 2
    ENVIRONMENT = 3
    TIMEOUT = 4
    RESOURCES = 5


TEAMS: dict[ExitCode, str] = {
    ExitCode.SUCCESS: "nobody",
    ExitCode.INPUT: "DevOps",
    ExitCode.PROCESSING: "QA",
    ExitCode.ENVIRONMENT: "SRE",
    ExitCode.TIMEOUT: "Performance",
    ExitCode.RESOURCES: "Infrastructure",
}


@dataclass(frozen=True)
class Outcome:
    """One way for a run to end: its name, its exit code, what it means, and what a person does next.

    `proves_bad` says whether it speaks against the release itself, wherever it shows. Silence or a full disk does not.
    """

    name: str
    code: ExitCode
    meaning: str
    do_next: str
    proves_bad: bool = False


_Row = tuple[str, ExitCode, str, str] | tuple[str, ExitCode, str, str, bool]
_PROVES_BAD = True


def _table(*rows: _Row) -> dict[str, Outcome]:
    return {row[0]: Outcome(*row) for row in rows}


OUTCOMES: dict[str, Outcome] = _table(
    ("success", ExitCode.SUCCESS, "Everything that was requested is in place.", "Nothing."),
    # 1: the request is wrong
    (
        "invalid_input",
        ExitCode.INPUT,
        "An argument, a variable or a file of the run is wrong.",
        "Correct the value named in the reason and run again.",
    ),
    (
        "other_history",
        ExitCode.INPUT,
        "The hosts have witnessed another history of runs, and nothing of the one that this run would be recorded in.",
        "Name that history's folder with mobius_history_dir. If it is lost, give --new-chain REASON, or to a plain "
        "ansible-playbook -e mobius_new_chain=REASON.",
    ),
    (
        "unknown_inventory",
        ExitCode.INPUT,
        "The inventory does not exist or names no host for this playbook.",
        "Give an inventory folder that exists, for example -i inventories/local.",
    ),
    (
        "playbook_error",
        ExitCode.INPUT,
        "The playbook or a role could not be read.",
        "Run ansible-playbook --syntax-check on the playbook and correct what it names.",
    ),
    (
        "bundle_invalid",
        ExitCode.INPUT,
        "The bundle differs from what was built: a digest, its manifest or its format is wrong.",
        "Copy the bundle and its .sha256 again from where it was built, or build it again.",
    ),
    (
        "bundle_unsigned",
        ExitCode.INPUT,
        "The host stages only bundles of its signers, and this one has no valid signature of any of them.",
        "Have one of the host's signers sign it with `mobius bundle sign FILE --key KEY`, and run again.",
    ),
    (
        "release_missing",
        ExitCode.INPUT,
        "The requested release is not on the host.",
        "Deploy its bundle first, or choose a release that `mobius rollback --list` shows.",
    ),
    (
        "release_bad",
        ExitCode.INPUT,
        "The release was marked as bad on this host.",
        "Build a corrected release; to try this one again give -e mobius_retry_bad=true.",
    ),
    (
        "downgrade",
        ExitCode.INPUT,
        "The bundle's version is lower than the one that the host has confirmed.",
        "To roll back use `mobius rollback`; to deploy the lower version anyway give -e mobius_downgrade=true.",
    ),
    (
        "nothing_to_roll_back",
        ExitCode.INPUT,
        "There is no earlier healthy release on the host.",
        "Deploy a healthy release; `mobius rollback --list` shows what the host keeps.",
    ),
    (
        "nothing_pending",
        ExitCode.INPUT,
        "There is no provisional promotion to confirm.",
        "Read `mobius-host status`; the promotion may have been reverted at its deadline.",
    ),
    (
        "release_in_use",
        ExitCode.INPUT,
        "The release is serving, pending or pinned, so it is not stopped or removed.",
        "Promote or roll back to another release first.",
    ),
    (
        "backup_missing",
        ExitCode.INPUT,
        "The requested backup is not on the host.",
        "Choose one that `mobius backup list` shows, or make one with `mobius backup create`.",
    ),
    (
        "run_not_opened",
        ExitCode.INPUT,
        "No run was opened for the host, so nothing may change it.",
        "Begin the play with mobius.dhash.run, and run all of it: without --skip-tags always and --start-at-task. "
        "At the host's console, mobius-host needs no run.",
    ),
    (
        "plan_invalid",
        ExitCode.INPUT,
        "The plan cannot be read, or it was changed after it was made.",
        "Make a new plan with `mobius plan`, and have that one approved.",
    ),
    (
        "plan_missing",
        ExitCode.INPUT,
        "This inventory is changed by an approved plan only, and the run has none.",
        "Make one with `mobius plan`, have it approved, and run `mobius apply`. A rollback needs no plan.",
    ),
    (
        "plan_stale",
        ExitCode.INPUT,
        "The plan is too old, or what it was made from has changed: a file, a variable or a host.",
        "Make a new plan with `mobius plan`, read what is different, and have that one approved.",
    ),
    (
        "plan_unapproved",
        ExitCode.INPUT,
        "The plan lacks approvals that the inventory requires.",
        "Have it signed by those whom the reason names, with `mobius approve PLAN --role ROLE --key FILE`.",
    ),
    (
        "checklist_open",
        ExitCode.INPUT,
        "The checklist of the release has open boxes.",
        "Answer what the reason names: `mobius checklist --bundle FILE`.",
    ),
    (
        "bundle_unproven",
        ExitCode.INPUT,
        "The bundle has not been released successfully on the inventory that has to come first.",
        "Release it there first, with a history that this inventory can read.",
    ),
    # 2: the work was done and the result is not good enough
    (
        "task_failed",
        ExitCode.PROCESSING,
        "A task failed without an outcome of the table.",
        "Read the message of the task above; nothing after it was run on that host.",
    ),
    (
        "files_failed",
        ExitCode.PROCESSING,
        "Some of the files could not be read; everything else was done.",
        "Read the reason beside each file; repair or remove it and run again, which reads only those files.",
    ),
    (
        "files_differ",
        ExitCode.PROCESSING,
        "A file that was copied is not what was read; nothing was switched or removed.",
        "Check the disk that the reason names; run the same command again, or `mobius dhash migrate rollback`.",
    ),
    (
        "hook_failed",
        ExitCode.PROCESSING,
        "A task of a hook failed, so its phase did not go on.",
        "Correct the hook or the problem that it reports; mobius_hooks in the inventory names its file.",
    ),
    (
        "golden_mismatch",
        ExitCode.PROCESSING,
        "The staged release failed a golden probe.",
        "Do not promote it: compare the expected and the actual answer in the reason, and correct the release.",
        _PROVES_BAD,
    ),
    (
        "smoke_failed",
        ExitCode.PROCESSING,
        "The serving release does not do what it promises.",
        "Read the checks that failed in the report; roll back when clients are affected.",
    ),
    (
        "trial_failed",
        ExitCode.PROCESSING,
        "The service does not keep what a release on hosts needs.",
        "Do what each broken check of the report names, and try again.",
    ),
    (
        "instance_failed",
        ExitCode.PROCESSING,
        "The release's instance stopped by itself.",
        "Read the instance's journal lines in the result, or `journalctl -u` of its unit on the host.",
        _PROVES_BAD,
    ),
    (
        "rolled_back",
        ExitCode.PROCESSING,
        "The release failed its gate; every host serves what it served before.",
        "Read the gate's evidence in the result and correct the release.",
        _PROVES_BAD,
    ),
    (
        "gate_inconclusive",
        ExitCode.PROCESSING,
        "The gate had too few samples for a proof either way; every host serves what it served before.",
        "Run the release again with a longer gate deadline.",
    ),
    (
        "held_back",
        ExitCode.PROCESSING,
        "Another host failed before this step, so no host was switched.",
        "Read what failed on the other host; this one serves what it served before.",
    ),
    (
        "rollback_failed",
        ExitCode.PROCESSING,
        "The rollback did not succeed on every host.",
        "Run `mobius-host status` on the hosts named: it shows what serves, and the command that rolls back from it.",
    ),
    (
        "tree_damaged",
        ExitCode.PROCESSING,
        "Files of a staged release differ from what was built.",
        "Deploy the release's bundle again; find out who changed the files named.",
    ),
    (
        "host_inconsistent",
        ExitCode.PROCESSING,
        "A host is not as its activation record and its provisioning have made it.",
        "Do what each line of `mobius-host status` names; most of it is healed by `mobius-host repair`.",
    ),
    (
        "backup_damaged",
        ExitCode.PROCESSING,
        "A backup does not match its digest or manifest.",
        "Make a new backup now, and keep the damaged one for inspection.",
    ),
    (
        "drill_failed",
        ExitCode.PROCESSING,
        "No release runs on the newest backup, or it does not answer from it.",
        "Read the instance's last lines in the reason; make a new backup and drill again: the old one is not verified.",
    ),
    (
        "plan_mismatch",
        ExitCode.PROCESSING,
        "The run has changed something else than its plan.",
        "Read what is missing and what is extra above; check the hosts, and make a new plan for the remaining changes.",
    ),
    (
        "history_damaged",
        ExitCode.PROCESSING,
        "The history of runs differs from what was written.",
        "Run `mobius history verify`; keep the folder. To continue at once, give another mobius_history_dir.",
    ),
    # 3: the environment does not meet the requirements
    (
        "history_failed",
        ExitCode.ENVIRONMENT,
        "The history of runs cannot be written, so nothing was changed on any host.",
        "Make the folder that the reason names writable, or give another one as mobius_history_dir.",
    ),
    (
        "unreachable",
        ExitCode.ENVIRONMENT,
        "A host did not answer.",
        "Check the host and its SSH access; an unconfirmed promotion on it reverts by itself.",
    ),
    (
        "diverged",
        ExitCode.ENVIRONMENT,
        "A host does not serve what was decided for the fleet.",
        "Run the same release again when the host is back; that run catches it up.",
    ),
    (
        "missing_dependency",
        ExitCode.ENVIRONMENT,
        "A program that is needed is not installed.",
        "Run `make setup`, or install what the reason names.",
    ),
    (
        "not_provisioned",
        ExitCode.ENVIRONMENT,
        "The host was not prepared for this service.",
        "Run playbooks/provision.yml (or `mobius provision`) for the host.",
    ),
    (
        "nothing_serves",
        ExitCode.ENVIRONMENT,
        "No release of the service serves on the host.",
        "Release a bundle to the host, or check its units with `mobius-host status` there.",
    ),
    (
        "host_tool_mismatch",
        ExitCode.ENVIRONMENT,
        "mobius-host on the host is another version than this checkout's.",
        "Run playbooks/provision.yml (or `mobius provision`) for the host.",
    ),
    (
        "bundle_platform",
        ExitCode.ENVIRONMENT,
        "The bundle was built for another Python or platform than the host's.",
        "Build or pack it with `--python X.Y --platform P` of this host.",
    ),
    (
        "state_damaged",
        ExitCode.ENVIRONMENT,
        "A state file on the host cannot be parsed.",
        "Read the file that the reason names; restore it from the newest backup.",
    ),
    (
        "source_damaged",
        ExitCode.ENVIRONMENT,
        "What was backed up is damaged on the host. The backup is kept, marked, and never the latest good one.",
        "Restore the newest good one (`mobius backup restore latest`), or repair what the reason names; run again. "
        "To go on with the damaged data give -e backup_accept_damage=true.",
    ),
    (
        "drill_outdated",
        ExitCode.ENVIRONMENT,
        "No restore drill of the host is recent enough to release to it.",
        "Run `mobius backup drill` for the host, then release again.",
    ),
    (
        "fenced",
        ExitCode.ENVIRONMENT,
        "Another run acquired the lock of this host, so this run may no longer change it.",
        "Read in `mobius-host status` which run holds the host; run again when that run has ended.",
    ),
    (
        "outside_window",
        ExitCode.ENVIRONMENT,
        "The change window is closed.",
        "Run again when it opens; in an emergency give -e mobius_break_glass=REASON, which is recorded.",
    ),
    (
        "locked",
        ExitCode.ENVIRONMENT,
        "Another run is at work on these hosts.",
        "Wait for the run that the reason names; the lock of a dead run expires by itself. A rollback never waits.",
    ),
    (
        "environment_failed",
        ExitCode.ENVIRONMENT,
        "Something that the run depends on did not work.",
        "Repair what the reason names and run again.",
    ),
    # 4: it took too long
    (
        "timeout",
        ExitCode.TIMEOUT,
        "The run or one of its steps took longer than allowed.",
        "Find the slow step; raise its limit only when the work is known to be longer.",
    ),
    (
        "instance_not_ready",
        ExitCode.TIMEOUT,
        "The release's instance did not become ready in time.",
        "Read the instance's journal lines in the result; raise the start time-out if it was only slow.",
    ),
    # 5: there is not enough
    (
        "disk_full",
        ExitCode.RESOURCES,
        "There is not enough free space.",
        "Free or add the space that the reason names, then run again; nothing was changed.",
    ),
    (
        "out_of_memory",
        ExitCode.RESOURCES,
        "There was not enough memory.",
        "Add memory or lower the limits that the reason names.",
    ),
    (
        "interrupted",
        ExitCode.PROCESSING,
        "The run was stopped by a person or a signal.",
        "Run again: every step detects what is done; an unconfirmed promotion reverts by itself.",
    ),
)


class MobiusError(Exception):
    """A failure that a person can act on.

    Args:
        outcome: a name from `OUTCOMES`.
        reason: one clear sentence, without a traceback.
        do_next: overrides the table's advice when the place that fails knows better.
        serves: the releases that serve on the host now, where a failure is about that; None when it is not.
    """

    def __init__(
        self, outcome: str, reason: str, *, do_next: str | None = None, serves: Sequence[str] | None = None
    ) -> None:
        entry = OUTCOMES[outcome]
        super().__init__(reason)
        self.outcome = entry.name
        self.code = entry.code
        self.reason = reason
        self.do_next = do_next or entry.do_next
        self.serves = serves

    def as_dict(self) -> dict[str, Any]:
        """The `mobius_failure` of a module result: `{code, outcome, reason, do_next}`, and `serves` if it is known."""
        serves = {} if self.serves is None else {"serves": list(self.serves)}
        return {
            "code": int(self.code),
            "outcome": self.outcome,
            "reason": self.reason,
            "do_next": self.do_next,
            **serves,
        }
