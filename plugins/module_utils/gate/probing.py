# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes one instance at its address, where no other can answer: what the modules `probe` and `instance` do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import MobiusError
from ..host.config import Host
from ..host.failures import failure_result
from ..host.state import read_activation
from .probes import PROBE_SPEC, Probe, require_response
from .requests import NotRunningError, instance_requests

PROBES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "options": {**PROBE_SPEC, "body_file": {"type": "path"}},
}
"""The module option `probes`; `body_file` is read on the control node."""


def probe_instance(host: Host, release: str, probes: Sequence[Probe], timeout: float, *, check: bool) -> dict[str, Any]:
    """Send the probes in their order, until a response is wrong; a part of the result of a module.

    It has `probes`, how many responses were as expected; `mobius_failure` and `msg`, and perhaps `mismatch`, when it
    fails; `note` or `predicted` when there is no instance to be probed.

    Args:
        timeout: seconds that one response may take.
        check: whether an instance that does not run is one that a check run has only predicted.
    """
    passed = 0
    try:
        request = instance_requests(host, release)
        for probe in probes:
            mismatch = require_response(request, probe, release, timeout)
            if mismatch is not None:
                failure = failure_result(MobiusError("golden_mismatch", f"{release}: {mismatch.sentence()}"))
                return {**failure, "probes": passed, "mismatch": mismatch.as_dict()}
            passed += 1
    except (MobiusError, OSError) as error:
        if isinstance(error, NotRunningError):
            if not host.overlap and release != read_activation(host).confirmed:
                return {
                    "probes": passed,
                    "note": f"{release} does not run beside another: the gate probes it.",
                }
            if check:
                return {"probes": passed, "predicted": "unknown"}
        return {**failure_result(error), "probes": passed}
    return {"probes": passed}
