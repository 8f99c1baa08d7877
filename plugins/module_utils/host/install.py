# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The installed command `mobius-host`: its sources, its digest, and whether a host has the same version."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import MobiusError
from .config import CONFIG_DIR, Host

PACKAGE = "ansible_collections.mobius.dhash.plugins.module_utils"
# What the installed command consists of, by module name below PACKAGE; the digest over them identifies its version.
TOOL_MODULES = (
    *("comparison", "durable", "errors", "front_signals", "manifest", "metric_table", "prometheus_text"),
    *("significance", "staged_tree", "tar_members", "tree_paths"),
    *("host", "host.clock", "host.config", "host.console", "host.executor", "host.failures"),
    *("host.front", "host.front.access_log", "host.front.certificate", "host.front.configuration"),
    *("host.front.figures", "host.front.runtime", "host.front.settings", "host.front.slots", "host.front.traffic"),
    *("host.fronted", "host.install", "host.instance", "host.journal", "host.lock", "host.maintenance"),
    "host.metrics",
    *(
        "host.plan",
        "host.problems",
        "host.rebuild",
        "host.recovery",
        "host.revision",
        "host.state",
        "host.state_files",
        "host.status",
    ),
    *("host.transitions", "host.transitions.canary", "host.transitions.confirmation"),
    *("host.transitions.maintenance_mode", "host.transitions.marks", "host.transitions.repair"),
    *("host.transitions.rollback", "host.transitions.upkeep", "host.triggers"),
    *("host.systemd", "host.watch", "host.worker"),
)


def _send_with_modules() -> None:
    """Never called: Ansible sends with a module what it imports anywhere, and no module has to load all of this."""
    from .. import (  # noqa: F401
        comparison,
        durable,
        errors,
        front_signals,
        manifest,
        metric_table,
        prometheus_text,
        significance,
        staged_tree,
    )
    from . import (  # noqa: F401
        clock,
        config,
        console,
        executor,
        failures,
        front,
        fronted,
        instance,
        journal,
        lock,
        maintenance,
        metrics,
        plan,
        problems,
        rebuild,
        recovery,
        revision,
        state,
        state_files,
        status,
        systemd,
        triggers,
        watch,
        worker,
    )
    from .front import access_log, certificate, configuration, figures, runtime, settings, slots, traffic  # noqa: F401
    from .transitions import canary, confirmation, maintenance_mode, marks, repair, rollback, upkeep  # noqa: F401


def tool_sources(names: Sequence[str] = TOOL_MODULES) -> dict[str, str]:
    """The text of each file that an installed command consists of, by its path below the package.

    Args:
        names: module names below PACKAGE.

    Raises:
        MobiusError: `environment_failed` when a source cannot be read.
    """
    sources = {}
    for name in names:
        spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
        # in the zip archive that Ansible sends, a source is no file: only its loader can read it
        loader = spec.loader if spec else None
        text = loader.get_source(spec.name) if spec and loader and hasattr(loader, "get_source") else None
        if text is None:
            raise MobiusError("environment_failed", f"The source of {name} cannot be read.")
        path = name.replace(".", "/")
        is_package = spec is not None and spec.submodule_search_locations is not None
        sources[f"{path}/__init__.py" if is_package else f"{path}.py"] = text
    return sources


def tool_digest(sources: Mapping[str, str] | None = None) -> str:
    """The first 12 hex digits of a SHA-256 over the sources: they identify the version of the command."""
    digest = hashlib.sha256()
    for name, text in sorted((tool_sources() if sources is None else sources).items()):
        digest.update(f"{name} {len(text.encode())}\n{text}".encode())
    return digest.hexdigest()[:12]


def launcher(lib_dir: str | Path, digest: str, entry: str = "host.console", config_dir: str | Path = CONFIG_DIR) -> str:
    """The text of a command. It fixes the version of the code and the folder of its settings; -I and -S keep the
    environment of the caller out."""
    return f'''#!/usr/bin/python3 -IS
# Written by Ansible; changes are lost.
import sys

DIGEST = "{digest}"
sys.path.insert(0, "{lib_dir}/" + DIGEST)
sys.argv[1:1] = ["--config-dir", "{config_dir}"]

from {PACKAGE}.{entry} import main

sys.exit(main())
'''


def installed_digest(command: str | Path) -> str | None:
    """The digest of an installed command; None when there is none."""
    try:
        match = re.search(r'^DIGEST = "([0-9a-f]{12})"$', Path(command).read_text(encoding="utf-8"), re.MULTILINE)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return match[1] if match else None


def require_tool(service: str, config_dir: str | Path = CONFIG_DIR) -> Host:
    """The host's description, when it is prepared for the service and its command is of the same version.

    Raises:
        MobiusError: `not_provisioned` or `host_tool_mismatch`.
    """
    host = Host.load(service, config_dir)
    installed = installed_digest(host.command)
    if installed is None:
        raise MobiusError("not_provisioned", f"{host.command} is not installed on this host.")
    if installed != tool_digest():
        raise MobiusError(
            "host_tool_mismatch",
            f"{host.command} on this host has version {installed}, this run {tool_digest()}.",
        )
    return host
