# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks Ansible, for every place where a user can write settings, which of them the tasks of the playbooks would not see.

    python -m tests.contract.setting_places CHECKOUT FOLDER < settings.json

`settings.json` is `{name: value}`, and `FOLDER` an empty one for inventories. The answer on stdout is JSON: `{place: {name:
[tasks that see another value]}}`, and under the key `reached` each name's number of tasks. Ansible's own classes load the
playbooks and compute the variables, as in a run; no task is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

HOST = "lab1"


def _yaml(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value), encoding="utf-8")


def _hosts(folder: Path, **group: Any) -> None:
    _yaml(folder / "hosts.yml", {"mobius": {"hosts": {HOST: None}, **group}})


def group_in_yaml(folder: Path, settings: Mapping[str, Any]) -> Path:
    _hosts(folder, vars=dict(settings))
    return folder / "hosts.yml"


def all_in_yaml(folder: Path, settings: Mapping[str, Any]) -> Path:
    _yaml(folder / "hosts.yml", {"all": {"vars": dict(settings)}, "mobius": {"hosts": {HOST: None}}})
    return folder / "hosts.yml"


def group_vars_all(folder: Path, settings: Mapping[str, Any]) -> Path:
    _hosts(folder)
    _yaml(folder / "group_vars/all.yml", dict(settings))
    return folder / "hosts.yml"


def group_vars_mobius(folder: Path, settings: Mapping[str, Any]) -> Path:
    _hosts(folder)
    _yaml(folder / "group_vars/mobius.yml", dict(settings))
    return folder / "hosts.yml"


def host_vars(folder: Path, settings: Mapping[str, Any]) -> Path:
    _hosts(folder)
    _yaml(folder / f"host_vars/{HOST}.yml", dict(settings))
    return folder / "hosts.yml"


def _ini(folder: Path, section: str, settings: Mapping[str, Any]) -> Path:
    lines = "".join(f"{name}={value!r}\n" for name, value in settings.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.ini").write_text(f"[mobius]\n{HOST}\n\n[{section}:vars]\n{lines}", encoding="utf-8")
    return folder / "hosts.ini"


def group_in_ini(folder: Path, settings: Mapping[str, Any]) -> Path:
    return _ini(folder, "mobius", settings)


def all_in_ini(folder: Path, settings: Mapping[str, Any]) -> Path:
    return _ini(folder, "all", settings)


def script(folder: Path, settings: Mapping[str, Any]) -> Path:
    answer = {"mobius": {"hosts": [HOST], "vars": dict(settings)}, "_meta": {"hostvars": {}}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hosts.py"
    path.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(answer))})\n", encoding="utf-8")
    path.chmod(0o755)
    return path


PLACES: tuple[Callable[[Path, Mapping[str, Any]], Path], ...] = (
    group_in_yaml,
    all_in_yaml,
    group_vars_all,
    group_vars_mobius,
    host_vars,
    group_in_ini,
    all_in_ini,
    script,
)
"""Each writes an inventory with the settings, and gives its path."""
EXTRA = "extra_variables"


def _tasks(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if hasattr(item, "block"):
            yield from _tasks([*item.block, *item.rescue, *item.always])
        else:
            yield item


def _hidden(checkout: Path, inventory: Path, settings: Mapping[str, Any], reached: dict[str, int]) -> dict[str, Any]:
    """`{name: [tasks that see another value]}` of one inventory; counts in `reached` the tasks that could read each."""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.playbook import Playbook
    from ansible.vars.manager import VariableManager

    loader = DataLoader()
    loader.set_basedir(str(checkout / "playbooks"))
    sources = InventoryManager(loader=loader, sources=[str(inventory)])
    manager = VariableManager(loader=loader, inventory=sources)
    host = sources.get_host(HOST)
    hidden: dict[str, Any] = {}
    for path in sorted((checkout / "playbooks").glob("*.yml")):
        for play in Playbook.load(str(path), variable_manager=manager, loader=loader).get_plays():
            if "mobius" not in play.hosts:
                continue  # the lab's, on this machine
            compared = set()
            for task in _tasks(play.compile()):
                role = task._role.get_name().rpartition(".")[2] if task._role else ""
                passed_on = task.get_vars()
                if (kind := (role, *sorted(passed_on))) in compared:
                    continue  # such a task sees what another one does
                compared.add(kind)
                known = manager.get_vars(play=play, host=host, task=task, include_hostvars=False)
                for name, value in settings.items():
                    if name in passed_on or not name.startswith(("mobius_", f"{role}_" if role else "mobius_")):
                        continue
                    reached[name] = reached.get(name, 0) + 1
                    if known.get(name) != value:
                        hidden.setdefault(name, []).append(f"{path.name}: {task.get_name()}")
    return hidden


def main(checkout: Path, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The answer for every place."""
    from ansible import context
    from ansible.plugins.loader import init_plugin_loader
    from ansible.utils.context_objects import CLIArgs

    init_plugin_loader([str(checkout / ".ansible/collections")])
    reached: dict[str, int] = {}
    answer: dict[str, Any] = {}
    for place in PLACES:
        inventory = place(folder / place.__name__, settings)
        answer[place.__name__] = _hidden(checkout, inventory, settings, reached)
    # last: Ansible keeps the extra variables of a process
    context.CLIARGS = CLIArgs({"extra_vars": (json.dumps(dict(settings)),)})
    _hosts(folder / EXTRA)
    answer[EXTRA] = _hidden(checkout, folder / EXTRA / "hosts.yml", settings, reached)
    return {**answer, "reached": reached}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin))))
