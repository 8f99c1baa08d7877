#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab as an Ansible inventory, read from `.lab/lab.json` of the project folder.

That is the folder in MOBIUS_PROJECT, which `mobius` sets, else the current one, when it has a `mobius.yml`. Else it is
the folder which holds `inventories/local`; where this file is a part of an installed collection, that in MOBIUS_PROJECT
or the current one in any case.

Prints the hosts whether the lab is up or not, so that playbooks can be checked without it; while it is down the hosts
have port 9, where nothing answers. Standard library only: it also runs where the virtual environment is not active.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

DISCARD_PORT = 9


def project_folder(script: Path) -> Path:
    """The folder whose lab it is, for this script's path."""
    project = Path(os.environ.get("MOBIUS_PROJECT") or Path.cwd()).resolve()
    if (project / "mobius.yml").is_file():
        return project
    if [folder.name for folder in script.parents][4:5] == ["ansible_collections"]:
        return project
    return script.parents[2]


def lab_hosts(root: Path) -> list[dict[str, Any]]:
    """`[{name, ssh_port, http_port, ports}]` of the lab started from `root`, else three that cannot be reached.

    A `.lab` that was copied with its folder names the hosts of the other folder, so it does not count.
    """
    try:
        record = json.loads((root / ".lab" / "lab.json").read_bytes())
        if record["schema"] == 1 and record["root"] == str(root):
            return list(record["hosts"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        print(f"{root}/.lab/lab.json cannot be read ({error}); `mobius lab up` writes it again.", file=sys.stderr)
    return [
        {"name": f"lab{number}", "ssh_port": DISCARD_PORT, "http_port": DISCARD_PORT, "ports": {}}
        for number in (1, 2, 3)
    ]


def inventory(root: Path) -> dict[str, Any]:
    """The whole inventory in the form of `--list`, with `_meta`."""
    lab = root / ".lab"
    # One pair of quotes for the shell, one for ssh: the folder's path may contain spaces.
    ssh_arguments = " ".join(
        [
            "-F none",
            f"""-o 'UserKnownHostsFile="{lab / "known_hosts"}"'""",
            "-o GlobalKnownHostsFile=/dev/null",
            "-o StrictHostKeyChecking=yes",
            "-o IdentitiesOnly=yes",
        ]
    )
    hosts = lab_hosts(root)
    variables: dict[str, dict[str, Any]] = {
        host["name"]: {
            "ansible_host": "127.0.0.1",
            "ansible_port": host["ssh_port"],
            "lab_http_port": host["http_port"],
            "lab_ports": host["ports"],
        }
        for host in hosts
    }
    variables["localhost"] = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    return {
        "_meta": {"hostvars": variables},
        "all": {"children": ["mobius", "ungrouped"]},
        "mobius": {
            "hosts": [host["name"] for host in hosts],
            "vars": {
                "lab_root": str(root),
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(lab / "id_ed25519"),
                "ansible_ssh_common_args": ssh_arguments,
                "ansible_python_interpreter": "/usr/bin/python3",
            },
        },
        "ungrouped": {"hosts": ["localhost"]},
    }


def main() -> None:
    """Answer `--list` (the default) and `--host NAME`, as inventory scripts do."""
    parser = argparse.ArgumentParser(description="The lab as an Ansible inventory.")
    parser.add_argument("--list", action="store_true", help="the whole inventory (the default)")
    parser.add_argument("--host", metavar="NAME", help="the variables of one host")
    arguments = parser.parse_args()
    whole = inventory(project_folder(Path(__file__).resolve()))
    answer = whole["_meta"]["hostvars"].get(arguments.host, {}) if arguments.host else whole
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
