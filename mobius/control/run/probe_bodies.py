# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the bodies of probes on the control node, so that a picture can lie beside the role that sends it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError

from mobius.errors import MobiusError


def read_bodies(arguments: Mapping[str, Any], find: Callable[[str], str]) -> dict[str, Any]:
    """The arguments of a module with probes: `body_base64` in place of each `body_file`, and no `body_dir`.

    Args:
        find: gives the path of a body that is in no folder of the arguments; raises OSError without one.

    Raises:
        MobiusError: invalid_input, when a body cannot be read.
    """
    others = {name: value for name, value in arguments.items() if name != "body_dir"}
    folder, probes = arguments.get("body_dir"), arguments.get("probes")
    if isinstance(probes, list):
        others["probes"] = [_read_body(probe, folder, find) for probe in probes]
    return others


def find_body(action: Any) -> Callable[[str], str]:
    """The function that gives the path of a body in the search path of an action plugin's task."""

    def find(name: str) -> str:
        try:
            path: str = action._find_needle("files", name)
        except AnsibleError:
            raise FileNotFoundError(None, "it is not in the search path") from None
        return path

    return find


def _read_body(probe: Any, folder: str | None, find: Callable[[str], str]) -> Any:
    if not isinstance(probe, dict) or not probe.get("body_file"):
        return probe
    others = {key: value for key, value in probe.items() if key != "body_file"}
    name = str(probe["body_file"])
    if probe.get("body_base64") is not None:
        raise MobiusError("invalid_input", f"The probe {probe.get('name')!r} has both body_file and body_base64.")
    try:
        body = (Path(folder, name) if folder else Path(find(name))).read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise MobiusError("invalid_input", f"The probe's body {name} cannot be read: {why}.") from None
    return {**others, "body_base64": base64.b64encode(body).decode()}
