# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a service on this machine as a host would: prepares its files, and hands them to the collection's trial."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobius import manifest
from mobius.control.bundle.folder import make_exclusion, merge_trees, read_folder, read_ignore_file
from mobius.control.run.project import Project
from mobius.control.service_file.parse import ServiceFile
from mobius.control.service_file.translate import to_variables
from mobius.errors import MobiusError

_PACKAGE = "ansible_collections.mobius.dhash.plugins.module_utils.trial"
_LIMIT_SECONDS = 60.0  # it ends by itself in half of that
_IN_THE_FRONT = ("reuse_connections", "timeouts")


def try_service(source: Path, file: ServiceFile, project: Project) -> dict[str, Any]:
    """The report of a trial: `checks`, `front` and `seconds`.

    Args:
        source: a bundle, or the folder that would be packed.

    Raises:
        MobiusError: `invalid_input` or `bundle_invalid`, when there is nothing to try; `environment_failed`.
    """
    # below /tmp, since the path of a socket has to be short
    folder = Path(tempfile.mkdtemp(prefix="mobius-try-", dir="/tmp" if Path("/tmp").is_dir() else None))
    try:
        tree = _prepare_tree(source, folder, file.service)
        return _run({**_settings(file), "folder": str(folder), "tree": str(tree)}, project)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare_tree(source: Path, folder: Path, service: str) -> Path:
    """The files as a host would have them, below `folder`."""
    if source.is_dir():
        return _copy_folder(source, folder / "tree")
    try:
        bundle = manifest.extract_bundle(source, folder)
    except (manifest.ManifestError, FileNotFoundError) as error:
        reason = str(error) if isinstance(error, manifest.ManifestError) else f"There is no bundle or folder {source}."
        raise MobiusError("bundle_invalid", reason) from None
    if bundle.manifest.service != service:
        raise MobiusError(
            "bundle_invalid", f"The bundle is of the service {bundle.manifest.service}, and mobius.yml of {service}."
        )
    return folder / "tree"


def _copy_folder(source: Path, target: Path) -> Path:
    """What `mobius bundle pack` would put into a bundle, copied."""
    root = source.resolve()
    tree = merge_trees([read_folder(root, make_exclusion(read_ignore_file(root)))])
    for name, file in tree.files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, path)
        path.chmod(int(file.mode, 8))
    for name, link in tree.links.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(link)
    target.mkdir(exist_ok=True)
    return target


def _settings(file: ServiceFile) -> dict[str, Any]:
    """What the trial has to know of `mobius.yml`."""
    values = file.values
    named = ("service", "exec", "kind", "health", "health_command", "overlap", "start_timeout", "drain_timeout")
    return {
        **{name: values[name] for name in (*named, "shared") if name in values},
        "environment": to_variables(file).get("host_environment", {}),
        "probes": [_with_body(probe, file.path.parent) for probe in values.get("probes", [])],
        "jit": values.get("sandbox", {}).get("jit", False),
        "front": {name: value for name, value in values.get("front", {}).items() if name in _IN_THE_FRONT},
    }


def _with_body(probe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A probe with the content of its `body_file`."""
    given = dict(probe)
    name = given.pop("body_file", None)
    if name is None:
        return given
    try:
        return {**given, "body_base64": base64.b64encode((folder / name).read_bytes()).decode()}
    except OSError as error:
        raise MobiusError(
            "invalid_input", f"The probe's body {name} cannot be read: {error.strerror or error}."
        ) from None


def _run(settings: Mapping[str, Any], project: Project) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(project.import_folder)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", _PACKAGE],
            input=json.dumps(dict(settings)),
            env=environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MobiusError("timeout", f"The trial took longer than {_LIMIT_SECONDS:g} seconds.") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise MobiusError("environment_failed", f"The trial ended with {done.returncode}: {last}") from None
    if failure := answer.get("mobius_failure"):
        raise MobiusError(failure["outcome"], failure["reason"], do_next=failure["do_next"])
    return dict(answer)
