# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius init` writes: `mobius.yml` with every key, an ignore file, an example inventory, a folder for hooks."""

from __future__ import annotations

import re
from pathlib import Path

from mobius.control.bundle.folder import IGNORE_FILE
from mobius.control.service_file.keys import FILE_NAME, KEYS, SERVICE_PATTERN, Key
from mobius.control.service_file.schema import SCHEMA_URL
from mobius.errors import MobiusError

_HEAD = """\
# yaml-language-server: $schema={url}
# One file is a service: `mobius` reads it in the folder where it is called. Lines that begin with # are not set.
# What differs between environments is set in inventories/<environment>/group_vars/mobius.yml, by the variables of the
# roles, which win over this file; -e wins over both.
"""
_HOSTS = """\
---
# An example: replace the name with those of your hosts, which are reached over SSH.
mobius:
  hosts:
    {service}1.staging.example.org:
"""
_GROUP_VARS = """\
---
# What only this environment has: it wins over mobius.yml. The user of the hosts needs sudo.
ansible_user: deploy
ansible_become: true
# Secrets, when you encrypt this file with ansible-vault. On hosts only root can read them.
# host_secrets: {SHOP_SECRET: change me}
"""
_IGNORED = """\
# What `mobius bundle pack .` and `mobius try .` leave out, in the syntax of .gitignore.
/mobius.yml
/inventories/
/hooks/
/vault/
/collections/
/dist/
/.lab/
.env
.venv/
"""
_HOOKS = """\
Task files of yours that run around the phases of a release. `hooks` in mobius.yml names them, for example
`hooks: {before_promote: hooks/before_promote.yml}`. Each is a list of Ansible tasks.
"""


def example_text(service: str) -> str:
    """`mobius.yml` of a service, every key with its meaning; those that are not required are commented out."""
    parts = [_HEAD.format(url=SCHEMA_URL), *(_key_text(key, service) for key in KEYS)]
    return "\n".join(parts)


def _key_text(key: Key, service: str) -> str:
    default = f" Without it: {key.default}." if key.default else ""
    comment = [f"# {line}" for line in f"{key.description}{default}".splitlines()]
    example = service if key.name == "service" else key.example
    mark = "" if key.is_required else "# "
    inner = [
        f"#   {inner.name}: {' '.join(inner.description.split())}"
        for each in key.types
        for inner in each.keys
        if key.name in ("front", "backup")
    ]
    return "\n".join([*comment, *inner, f"{mark}{key.name}: {example}", ""])


def example_files(service: str) -> dict[str, str]:
    """Each file that `mobius init` writes, by its path in the user's folder."""
    return {
        FILE_NAME: example_text(service),
        IGNORE_FILE: _IGNORED,
        "inventories/staging/hosts.yml": _HOSTS.format(service=service),
        "inventories/staging/group_vars/mobius.yml": _GROUP_VARS,
        "hooks/README.md": _HOOKS,
    }


def init_project(folder: Path, service: str) -> tuple[list[Path], list[Path]]:
    """Write the files of a new project; those that are there stay as they are.

    Returns:
        What was written, and what was there before.

    Raises:
        MobiusError: `invalid_input`, for a name that no service can have, or a `mobius.yml` that is there already.
        OSError: a file cannot be written.
    """
    if not re.fullmatch(SERVICE_PATTERN, service):
        raise MobiusError(
            "invalid_input",
            f"{service!r} is not a name of a-z, 0-9 and hyphens that begins with a letter, of up to 41 characters.",
        )
    if (folder / FILE_NAME).exists() or (folder / FILE_NAME).is_symlink():
        raise MobiusError(
            "invalid_input",
            f"{folder / FILE_NAME} is there already, and was not changed.",
            do_next="Change it, or call `mobius init` in another folder.",
        )
    written, kept = [], []
    for name, text in example_files(service).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            kept.append(path)
        else:
            written.append(path)
    return written, kept
