# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens the run: the first task of every play that can change a host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.utils.vars import load_extra_vars
from ansible_collections.mobius.dhash.plugins.plugin_utils import wheel  # noqa: F401 - before mobius

from mobius.control.history import recorder as history_events
from mobius.control.history.writer import History, default_folder
from mobius.control.plan.approvals import VARIABLES, Rule
from mobius.control.plan.plan import fingerprint
from mobius.control.plan.planned_run import PLANNING
from mobius.control.plan.rule import Asked, Verdict, examine, host_refusal
from mobius.control.run.run_id import ENVIRONMENT_NAME, actor, current_run_id
from mobius.errors import MobiusError

_WITNESS = "mobius.dhash.witness"
_RELEASES = "mobius.dhash.release_info"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Records the run's intent or fails; refuses what the inventory's rule does not allow; then the host keeps the
    history's head, and every host knows id and actor."""

    arguments: ClassVar = {
        "approval": {"type": "bool", "default": True},
        "witness": {"type": "bool", "default": True},
    }

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec=self.arguments)
        known = task_vars or {}
        process_folder = Path(constants.DEFAULT_LOCAL_TMP)
        planning = bool(self._task.check_mode and os.environ.get(PLANNING))
        state: dict[str, Any] | None = None
        finding = ""
        try:
            run_id = current_run_id(os.environ, process_folder)
            who = actor(os.environ)
            place = history_events.note_place(os.environ, process_folder)
            extra = load_extra_vars(self._loader)
            # a later play of the same run finds the host as this run has left it
            first = known.get("mobius_run_id") != run_id or "mobius_run_id" in extra
            asks = given["approval"] and not planning
            note = history_events.Note.read(place)
            if note is None or note.run != run_id:
                note = self._open(run_id, who, known, place, extra, asks=asks)
            verdict = examine(self._asked(known, note, extra)) if asks and first else Verdict(None)
            refused = verdict.refused
            if planning or (verdict.plan is not None and refused is None):
                asked = self._state(known, task_vars)
                if asked.get("failed") or asked.get("unreachable"):
                    return {**result, **asked}
                state = asked["state"]
            if verdict.plan is not None and refused is None:
                refused = host_refusal(str(known.get("inventory_hostname")), verdict.plan, state)
            if refused is not None and not self._task.check_mode:
                raise refused
            finding = refused.reason if refused is not None else ""
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        head = {**note.head, "run": run_id}
        # the head is the run's own, so a host that keeps it has nothing to learn in a later play
        done = not first and (self._task.check_mode or bool(known.get("mobius_run_witnessed")))
        seen = self._witness(head, known, task_vars) if given["witness"] and not done else {}
        if seen.get("failed") or seen.get("unreachable"):
            return {**result, **seen}
        witnessed = done or bool(seen.get("witnessed"))
        facts = {
            "mobius_run_id": run_id,
            "mobius_run_actor": who,
            "mobius_run_head": head,
            "mobius_run_witnessed": witnessed,
        }
        told = {name: seen.get(name) for name in ("release", "witnessed", "warnings") if name in seen}
        if planning:
            told["state"] = state
        if finding:
            told["warnings"] = [*(told.get("warnings") or []), f"The run itself would be refused now: {finding}"]
        answer = {"run": run_id, "actor": who, "finding": finding, "ansible_facts": facts}
        return {**result, **told, "changed": False, **answer}

    def _witness(self, head: dict[str, Any], known: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        arguments = {"head": head, "service": self._known(known, "mobius_service")}
        folder = self._known(known, "mobius_witness_dir")
        if folder:
            arguments["dir"] = folder
        seen: dict[str, Any] = self._execute_module(_WITNESS, arguments, task_vars=task_vars)
        return seen

    def _state(self, known: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The host's fingerprint as `state`, null when no service is known to it; else the module's failure."""
        service = self._known(known, "mobius_service")
        if not service:
            return {"state": None}
        asked: dict[str, Any] = self._execute_module(_RELEASES, {"service": service}, task_vars=task_vars)
        return asked if asked.get("failed") or asked.get("unreachable") else {"state": fingerprint(asked)}

    def _asked(self, known: dict[str, Any], note: history_events.Note, extra: dict[str, Any]) -> Asked:
        """What this run is asked to do, by the rule of this host."""
        text = {
            name: str(self._known(known, f"mobius_{name}") or "")
            for name in ("change_window", "break_glass", "release")
        }
        return Asked(
            rule=Rule.read({name: self._known(known, name) for name in VARIABLES}),
            plan=Path(note.plan) if note.plan else None,
            intent=note.intent,
            window=text["change_window"],
            break_glass=text["break_glass"].strip(),
            release=text["release"],
            given=frozenset(extra),
            history=note.folder,
            now=datetime.now(UTC),
        )

    def _open(
        self, run_id: str, who: str, known: dict[str, Any], place: Path, extra: dict[str, Any], *, asks: bool
    ) -> history_events.Note:
        arguments = context.CLIARGS
        playbook = str((arguments.get("args") or ("",))[0])
        folder = self._known(known, "mobius_history_dir")
        key = self._known(known, "mobius_history_key") or os.environ.get("MOBIUS_HISTORY_KEY")
        history = History(
            Path(folder).expanduser().absolute() if folder else default_folder(os.environ),
            Path(key).expanduser().absolute() if key else None,
        )
        change = self._known(known, "mobius_change")
        bundle = self._known(known, "mobius_bundle")
        plan = str(self._known(known, "mobius_plan") or "") if asks else ""
        intent = history_events.Intent(
            run=run_id,
            actor=who,
            playbook=str(Path(playbook).absolute()) if playbook else "",
            checkout=Path(str(known.get("playbook_dir", "."))).absolute().parent,
            inventory=tuple(str(source) for source in arguments.get("inventory") or ()),
            hosts=tuple(str(host) for host in known.get("ansible_play_hosts_all", ())),
            check=bool(self._task.check_mode),
            limit=arguments.get("subset"),
            tags=tuple(arguments.get("tags") or ()),
            skip_tags=tuple(arguments.get("skip_tags") or ()),
            variables=extra,
            bundle=str(bundle or ""),
            change=change if isinstance(change, dict) else {},
            reason=str(self._known(known, "mobius_reason") or ""),
            plan=str(Path(plan).expanduser().absolute()) if plan else "",
            via="mobius" if os.environ.get(ENVIRONMENT_NAME) else "ansible-playbook",
            ansible=ansible_version,
        )

        def approval(data: Mapping[str, Any]) -> Mapping[str, Any]:
            note = history_events.Note(run_id, history.folder, history.key, {}, dict(data), intent.plan)
            asked = self._asked(known, note, extra)
            return examine(asked).record(asked) if asks else {}

        holder = history_events.parent_holder()
        return history_events.open_run(intent, history, holder, os.environ, place, approval)

    def _known(self, known: dict[str, Any], name: str) -> Any:
        """A variable's value with its templates filled in, None when it is not set."""
        return self._templar.template(known[name]) if name in known else None
