# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens the run: the first task of every play that can change a host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.utils.vars import load_extra_vars

from mobius.control import history_events
from mobius.control.history import History, default_folder
from mobius.control.plan import fingerprint
from mobius.control.planned_run import PLANNING
from mobius.control.run_id import ENVIRONMENT_NAME, actor, current_run_id
from mobius.errors import MobiusError

_WITNESS = "mobius.dhash.witness"
_RELEASES = "mobius.dhash.release_info"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Records the run's intent or fails; then the host keeps the history's head, and every host knows id and actor."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        known = task_vars or {}
        process_folder = Path(constants.DEFAULT_LOCAL_TMP)
        try:
            run_id = current_run_id(os.environ, process_folder)
            who = actor(os.environ)
            place = history_events.note_place(os.environ, process_folder)
            note = history_events.Note.read(place)
            if note is None or note.run != run_id:
                note = self._open(run_id, who, known, place)
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        state = None
        if self._task.check_mode and os.environ.get(PLANNING):
            asked = self._state(known, task_vars)
            if asked.get("failed") or asked.get("unreachable"):
                return {**result, **asked}
            state = asked["state"]
        arguments = {"head": {**note.head, "run": run_id}, "service": self._known(known, "mobius_service")}
        folder = self._known(known, "mobius_witness_dir")
        if folder:
            arguments["dir"] = folder
        seen = self._execute_module(_WITNESS, arguments, task_vars=task_vars)
        if seen.get("failed") or seen.get("unreachable"):
            return {**result, **seen}
        facts = {"mobius_run_id": run_id, "mobius_run_actor": who}
        told = {name: seen.get(name) for name in ("release", "witnessed", "warnings") if name in seen}
        if state is not None:
            told["state"] = state
        return {**result, **told, "changed": False, "run": run_id, "actor": who, "ansible_facts": facts}

    def _state(self, known: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The host's fingerprint as `state`, null when no service is known to it; else the module's failure."""
        service = self._known(known, "mobius_service")
        if not service:
            return {"state": None}
        asked: dict[str, Any] = self._execute_module(_RELEASES, {"service": service}, task_vars=task_vars)
        return asked if asked.get("failed") or asked.get("unreachable") else {"state": fingerprint(asked)}

    def _open(self, run_id: str, who: str, known: dict[str, Any], place: Path) -> history_events.Note:
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
            variables=load_extra_vars(self._loader),
            bundle=str(bundle or ""),
            change=change if isinstance(change, dict) else {},
            reason=str(self._known(known, "mobius_reason") or ""),
            plan=str(self._known(known, "mobius_plan") or ""),
            via="mobius" if os.environ.get(ENVIRONMENT_NAME) else "ansible-playbook",
            ansible=ansible_version,
        )
        return history_events.open_run(intent, history, history_events.parent_holder(), os.environ, place)

    def _known(self, known: dict[str, Any], name: str) -> Any:
        """A variable's value with its templates filled in, None when it is not set."""
        return self._templar.template(known[name]) if name in known else None
