# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens the run: the first task of every play that can change a host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants, context
from ansible.release import __version__ as ansible_version
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars
from ansible.vars.manager import VariableManager
from ansible_collections.mobius.dhash.plugins.module_utils.witness import other_chains
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.history.intent import Intent
from mobius.control.history.opened_run import (
    OpenedRun,
    OpeningLevel,
    note_opened,
    open_run,
    opening_of,
    parent_holder,
)
from mobius.control.history.writer import History, default_folder
from mobius.control.plan.approvals import VARIABLES, Rule, require_inventory_data
from mobius.control.plan.plan import fingerprint
from mobius.control.plan.planned_run import PLANNING
from mobius.control.plan.rule import ChangeRequest, RuleVerdict, examine, host_refusal
from mobius.control.run.action import current_workspace, refusal_of_the_run, warning
from mobius.control.run.ansible_settings import RUN_FACTS, require_no_own_results, require_settings
from mobius.control.run.installed_modules import InstalledModules
from mobius.control.run.known_variables import find_unknown, known_variables, require_known
from mobius.control.run.project import PROJECT_VARIABLE
from mobius.control.run.run_id import ENVIRONMENT_NAME, current_run_id, find_actor, new_run_id
from mobius.control.run.workspace import RunWorkspace
from mobius.control.service_file.translate import require_service_file
from mobius.errors import MobiusError

_COLLECTION = Path(__file__).resolve().parents[2]
_WITNESS = "mobius.dhash.witness"
_WITNESS_INFO = "mobius.dhash.witness_info"
_FROM_WITNESS = ("release", "witnessed", "other_chains", "warnings")
_RELEASES = "mobius.dhash.release_info"


class ActionModule(InstalledModules):
    """Records the run's intent or fails; refuses what the inventory's rule does not allow; then the host keeps the
    history's head, and every host knows id and actor."""

    arguments: ClassVar = {
        "approval": {"type": "bool", "default": True},
        "new_chain": {"type": "str", "choices": ["refuse", "accept"], "default": "refuse"},
        "required": {"type": "bool", "default": True},
        "witness": {"type": "bool", "default": True},
    }

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(argument_spec=self.arguments)
        known = task_vars or {}
        try:
            ignored = self._check_variables(known, is_required=arguments["required"])
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        try:
            opened = self._open_on_host(arguments, known, task_vars)
            if ignored:
                opened["warnings"] = [*(opened.get("warnings") or []), *ignored]
            return {**result, **opened}
        except MobiusError as error:
            if arguments["required"]:
                return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
            reason = error.reason
        except Exception as error:
            # a variable that cannot be read, a history in an unknown state: nothing may block a rollback
            if arguments["required"]:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {**result, **self._go_on_unrecorded(reason, known)}

    def _open_on_host(
        self, arguments: Mapping[str, Any], known: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The result on one host, its failure or its being out of reach included.

        Raises:
            MobiusError: the run cannot be opened for this host.
        """
        planning = bool(self._task.check_mode and os.environ.get(PLANNING))
        state: dict[str, Any] | None = None
        extra = load_extra_vars(self._loader)
        unsettled = self._settings_refusal(extra)
        if unsettled is not None and arguments["required"]:
            raise unsettled
        workspace = current_workspace()
        run_id = current_run_id(os.environ, workspace)
        actor = find_actor(os.environ)
        host = str(known.get("inventory_hostname"))
        needs_approval = arguments["approval"] and not planning
        opening = OpeningLevel.APPROVED if arguments["approval"] else OpeningLevel.RECORDED
        # a later play of the same run finds the host as this run has left it, whatever variables say
        earlier = opening_of(workspace, host, run_id)
        is_first_play = earlier is None or earlier < opening
        new_chain = self._new_chain(known, extra)
        accepts = bool(new_chain) or arguments["new_chain"] == "accept"
        opened = OpenedRun.read(workspace)
        if opened is None or opened.run != run_id:
            others: list[dict[str, Any]] = []
            if arguments["witness"] and arguments["new_chain"] == "refuse" and self._history(known).is_new:
                answer = self._run_on_host(_WITNESS_INFO, {}, known, task_vars)
                if answer.get("unreachable"):
                    return answer
                # a host whose heads cannot be read goes on, as one that cannot keep a head
                others = other_chains(answer.get("heads") or [], None)
                if others and not accepts:
                    raise _other_history(host, others)
            opened = self._open(
                run_id, actor, known, workspace, extra, others, new_chain, needs_approval=needs_approval
            )
        opened.require_open()
        opened.require_host(host)
        verdict = (
            examine(self._request(known, opened, extra)) if needs_approval and is_first_play else RuleVerdict(None)
        )
        refused = verdict.refused
        if planning or (verdict.plan is not None and refused is None):
            answer = self._state(known, task_vars)
            if answer.get("failed") or answer.get("unreachable"):
                return answer
            state = answer["state"]
        if verdict.plan is not None and refused is None:
            refused = host_refusal(host, verdict.plan, state)
        if refused is not None and not self._task.check_mode:
            raise refused
        finding = refused.reason if refused is not None else ""
        head = {**opened.head, "run": run_id}
        # the head stays the same during a run, so a host that has kept it is not asked again in a later play
        is_done = not is_first_play and (self._task.check_mode or bool(known.get("mobius_run_witnessed")))
        kept: dict[str, Any] = {}
        if arguments["witness"] and not is_done:
            kept = self._run_on_host(
                _WITNESS, {"head": head, "opened_run": run_id, "new_chain": accepts}, known, task_vars
            )
        if kept.get("unreachable") or (kept.get("failed") and arguments["required"]):
            return kept
        if kept.get("refused"):
            raise _other_history(host, kept["other_chains"])
        if is_first_play:
            note_opened(workspace, host, run_id, opening)
        witnessed = is_done or bool(kept.get("witnessed"))
        facts = {
            "mobius_run_id": run_id,
            "mobius_run_actor": actor,
            "mobius_run_head": head,
            "mobius_run_witnessed": witnessed,
        }
        from_host = {name: kept[name] for name in _FROM_WITNESS if name in kept}
        if not from_host.get("other_chains"):
            from_host.pop("other_chains", None)
        if planning:
            from_host["state"] = state
        warnings = list(from_host.get("warnings") or [])
        if new_chain and is_first_play and not self._task.check_mode:
            try:
                self._name_successor(opened, known, new_chain)
            except Exception as error:  # noqa: BLE001 - of a history that is given up, or the variable for it
                warnings.append(f"The history before this one does not name it: {error}")
        if kept.get("failed"):
            warnings.append(f"The host does not keep the head of the history: {kept.get('msg')}")
        if unsettled is not None:
            warnings.append(f"A rollback goes on all the same: {unsettled.reason}")
        if finding:
            warnings.append(refusal_of_the_run(finding))
        if warnings:
            from_host["warnings"] = warnings
        own = {"run": run_id, "actor": actor, "finding": finding, "ansible_facts": facts}
        return {**from_host, "changed": False, **own}

    def _check_variables(self, known: dict[str, Any], *, is_required: bool) -> list[str]:
        """Refuse variables that look like one of ours and are none; gives what a rollback only warns of.

        A rollback goes on with what an inventory has, but not with another release than the one that somebody meant by
        a misspelt extra variable.

        Raises:
            MobiusError: invalid_input.
        """
        require_service_file(context.CLIARGS.get("inventory") or (), known)
        names = known_variables(_COLLECTION).union(RUN_FACTS)
        extra = load_extra_vars(self._loader)
        require_known(find_unknown(extra, names, "-e"), names)
        try:
            of_inventory = {
                name: value for name, value in self._inventory_variables(known).items() if name not in extra
            }
            require_known(find_unknown(of_inventory, names, "the inventory"), names)
        except MobiusError as error:
            if is_required:
                raise
            return [f"A rollback goes on all the same: {error.reason}"]
        return []

    def _inventory_variables(self, known: dict[str, Any]) -> dict[str, Any]:
        """The variables that the inventory has for the host, whatever extra variables name; not filled in."""
        manager = self._task.get_variable_manager()
        inventory = VariableManager(loader=self._loader, inventory=manager._inventory)
        inventory._extra_vars = {}
        host = manager._inventory.get_host(str(known.get("inventory_hostname")))
        variables: dict[str, Any] = inventory.get_vars(host=host, include_hostvars=False)
        return variables

    @staticmethod
    def _settings_refusal(extra: Mapping[str, Any]) -> MobiusError | None:
        """Why Ansible's settings, or extra variables, are not those that the playbooks were written for, or None."""
        try:
            require_settings(constants.config.get_config_value)
            require_no_own_results(extra)
            require_inventory_data(extra, ("mobius_witness_dir",))
        except MobiusError as error:
            return error
        return None

    def _go_on_unrecorded(self, reason: str, known: dict[str, Any]) -> dict[str, Any]:
        """What a rollback's run is when it cannot be recorded: its hosts' journals are the record."""
        workspace = current_workspace()
        run_id, actor = new_run_id(), "unknown"
        with contextlib.suppress(Exception):
            run_id = current_run_id(os.environ, workspace)
        with contextlib.suppress(Exception):
            actor = find_actor(os.environ)
        with contextlib.suppress(Exception):
            note_opened(workspace, str(known.get("inventory_hostname")), run_id, OpeningLevel.UNRECORDED)
        text = f"The run is not in the history, and goes on all the same; each host has it in its journal: {reason}"
        facts = {
            "mobius_run_id": run_id,
            "mobius_run_actor": actor,
            "mobius_run_head": {},
            "mobius_run_witnessed": False,
        }
        return {
            **warning([text]),
            "changed": False,
            "run": run_id,
            "actor": actor,
            "finding": "",
            "ansible_facts": facts,
        }

    def _run_on_host(
        self, module: str, arguments: dict[str, Any], known: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The result of a module that works on what the host has witnessed."""
        arguments = {**arguments, "service": self._known(known, "mobius_service")}
        folder = self._known(known, "mobius_witness_dir")
        if folder:
            arguments["dir"] = folder
        answer: dict[str, Any] = self._execute_module(module, arguments, task_vars=task_vars)
        return answer

    def _new_chain(self, known: dict[str, Any], extra: dict[str, Any]) -> str:
        """Why a host that has witnessed another history begins with this run's; empty when nobody gave a reason.

        Raises:
            MobiusError: invalid_input, when it is no extra variable: it would count for every later run, too.
        """
        reason = str(self._known(known, "mobius_new_chain") or "").strip()
        if reason and "mobius_new_chain" not in extra:
            raise MobiusError(
                "invalid_input",
                "mobius_new_chain is set in the inventory or the playbook, where it counts for every run.",
                do_next="Remove it there, and give it to the one run that needs it: -e mobius_new_chain=REASON.",
            )
        return reason

    def _history(self, known: dict[str, Any]) -> History:
        folder = self._known(known, "mobius_history_dir")
        key = self._known(known, "mobius_history_key") or os.environ.get("MOBIUS_HISTORY_KEY")
        return History(
            Path(folder).expanduser().absolute() if folder else default_folder(os.environ),
            Path(key).expanduser().absolute() if key else None,
        )

    def _history_of_inventory(self, known: dict[str, Any]) -> History:
        """The history that the inventory names, whatever extra variables name."""
        variables = self._inventory_variables(known)
        folder = variables.get("mobius_history_dir")
        text = Templar(loader=self._loader, variables=variables).template(folder) if folder else ""
        return History(
            Path(str(text)).expanduser().absolute() if text else default_folder(os.environ), self._history(known).key
        )

    def _name_successor(self, opened: OpenedRun, known: dict[str, Any], reason: str) -> None:
        """Record in the history that the inventory names, if it is still there, that this run's replaces it.

        Raises:
            MobiusError, OSError: it cannot be recorded.
        """
        old = self._history_of_inventory(known)
        if not old.is_new and old.folder.resolve() != opened.folder.resolve():
            old.name_successor(str(opened.head["chain"]), reason, opened.run)

    def _state(self, known: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The host's fingerprint as `state`, null when no service is known to it; else the module's failure."""
        service = self._known(known, "mobius_service")
        if not service:
            return {"state": None}
        answer: dict[str, Any] = self._execute_module(_RELEASES, {"service": service}, task_vars=task_vars)
        return answer if answer.get("failed") or answer.get("unreachable") else {"state": fingerprint(answer)}

    def _request(self, known: dict[str, Any], opened: OpenedRun, extra: dict[str, Any]) -> ChangeRequest:
        """The change that this run makes, and this host's rule for it."""
        text = {
            name: str(self._known(known, f"mobius_{name}") or "")
            for name in ("change_window", "break_glass", "release")
        }
        return ChangeRequest(
            rule=Rule.read({name: self._known(known, name) for name in VARIABLES}),
            plan=Path(opened.plan) if opened.plan else None,
            intent=opened.intent,
            window=text["change_window"],
            break_glass=text["break_glass"].strip(),
            release=text["release"],
            extra_variables=frozenset(extra),
            history=opened.folder,
            now=datetime.now(UTC),
        )

    def _open(
        self,
        run_id: str,
        actor: str,
        known: dict[str, Any],
        workspace: RunWorkspace,
        extra: dict[str, Any],
        others: list[dict[str, Any]],
        new_chain: str,
        *,
        needs_approval: bool,
    ) -> OpenedRun:
        arguments = context.CLIARGS
        playbook = str((arguments.get("args") or ("",))[0])
        history = self._history(known)
        change = self._known(known, "mobius_change")
        bundle = self._known(known, "mobius_bundle")
        plan = str(self._known(known, "mobius_plan") or "") if needs_approval else ""
        intent = Intent(
            run=run_id,
            actor=actor,
            playbook=_playbook_path(playbook),
            project=_project_folder(os.environ),
            collection=_COLLECTION,
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
            new_chain=new_chain,
            via="mobius" if os.environ.get(ENVIRONMENT_NAME) else "ansible-playbook",
            ansible=ansible_version,
        )

        def approval(data: Mapping[str, Any]) -> Mapping[str, Any]:
            opened = OpenedRun(run_id, history.folder, history.key, {}, dict(data), intent.plan)
            request = self._request(known, opened, extra)
            return examine(request).record(request) if needs_approval else {}

        replaces = {"reason": new_chain, "chains": others} if others and new_chain else None
        return open_run(intent, history, parent_holder(), os.environ, workspace, approval, replaces)

    def _known(self, known: dict[str, Any], name: str) -> Any:
        """A variable's value with its templates filled in, None when it is not set."""
        return self._templar.template(known[name]) if name in known else None


def _other_history(host: str, others: list[dict[str, Any]]) -> MobiusError:
    last = others[-1]
    where = f"up to record {last.get('seq')} of run {last.get('run')}"
    return MobiusError(
        "other_history",
        f"{host} has witnessed the history {last.get('chain')} {where}, and nothing of the one for this run.",
    )


def _project_folder(environment: Mapping[str, str]) -> Path:
    """The user's folder: what `mobius` names, else the checkout; with an installed collection, the current folder."""
    if folder := environment.get(PROJECT_VARIABLE):
        return Path(folder)
    return Path.cwd() if _COLLECTION.parents[1].name == "ansible_collections" else _COLLECTION


def _playbook_path(playbook: str) -> str:
    """The absolute path of a playbook, which may also be named `mobius.dhash.release`."""
    name = playbook.removeprefix("mobius.dhash.")
    if name != playbook and not Path(playbook).exists():
        return str(_COLLECTION / "playbooks" / f"{name}.yml")
    return str(Path(playbook).absolute()) if playbook else ""
