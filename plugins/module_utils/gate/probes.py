# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes: requests whose responses are known."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import MobiusError
from .requests import NO_PROCESS_ERRORS, NO_RESPONSE_ERRORS, NotRunningError, Request

PROBE_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "method": {"type": "str", "default": "GET", "choices": ["GET", "POST"]},
    "path": {"type": "str", "required": True},
    "content_type": {"type": "str"},
    "body_base64": {"type": "str"},
    "status": {"type": "int", "default": 200},
    "json": {"type": "dict"},
}
EXCERPT_MAX_CHARS = 300
DIGEST = re.compile(r"[0-9a-f]{16,128}")  # as dhash and SHA-2 write theirs


@dataclass(frozen=True)
class Probe:
    """One request and its expected response: the status (None: any of 2xx) and, unless None, a part of the JSON."""

    name: str
    method: str
    path: str
    content_type: str | None
    body: bytes | None
    status: int | None
    json: Mapping[str, Any] | None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Probe:
        """From an argument of a module that `PROBE_SPEC` has checked.

        Raises:
            MobiusError: `invalid_input` for an invalid path or a body that is not base64.
        """
        name = value["name"]
        if not value["path"].startswith("/") or any(character.isspace() for character in value["path"]):
            raise MobiusError("invalid_input", f"The probe {name!r} has the invalid path {value['path']!r}.")
        encoded = value.get("body_base64")
        try:
            body = None if encoded is None else base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise MobiusError("invalid_input", f"The probe {name!r} has a body_base64 that is not base64.") from None
        return cls(
            name, value["method"], value["path"], value.get("content_type"), body, value["status"], value.get("json")
        )


def health_probe(health_path: str) -> Probe:
    """The probe of a service that has none of its own."""
    return Probe("health", "GET", health_path, None, None, None, None)


@dataclass(frozen=True)
class Mismatch:
    """A probe whose response is not the expected one."""

    name: str
    expected: Any
    actual: Any
    is_server_error: bool = False  # whether the response was an unexpected 5xx

    def sentence(self) -> str:
        """The sentence for people: which probe, and what of the response is not the expected one."""
        return f"The probe {self.name!r} failed: {describe_difference(self.expected, self.actual)}."

    def as_dict(self) -> dict[str, Any]:
        """The mismatch as the module `probe` returns it."""
        return {"name": self.name, "wanted": self.expected, "got": self.actual}


def send_probe(request: Request, probe: Probe, timeout: float) -> Mismatch | None:
    """Send one probe; None when the response is the expected one.

    Raises:
        OSError, http.client.HTTPException: no whole response came within `timeout` seconds.
    """
    status, _, body = request(probe.method, probe.path, probe.body, probe.content_type, timeout)
    if not 200 <= status < 300 if probe.status is None else status != probe.status:
        expected = {"status": "2xx" if probe.status is None else probe.status}
        return Mismatch(probe.name, expected, {"status": status, "body": excerpt(body)}, status >= 500)
    if probe.json is None:
        return None
    try:
        response = json.loads(body)
    except ValueError:
        return Mismatch(probe.name, dict(probe.json), excerpt(body))
    if not isinstance(response, dict):
        return Mismatch(probe.name, dict(probe.json), response)
    wrong = {
        key: value for key, value in probe.json.items() if key not in response or not matches(value, response[key])
    }
    return Mismatch(probe.name, wrong, {key: response.get(key) for key in wrong}) if wrong else None


def require_response(request: Request, probe: Probe, release: str, timeout: float) -> Mismatch | None:
    """`send_probe` to an instance that must respond.

    Raises:
        NotRunningError: there is no process behind the socket.
        MobiusError: `instance_not_ready` without a response in time, `instance_failed` for a broken one.
    """
    try:
        return send_probe(request, probe, timeout)
    except TimeoutError:
        raise MobiusError(
            "instance_not_ready", f"{release} did not respond to the probe {probe.name!r} within {timeout:g} s."
        ) from None
    except NO_PROCESS_ERRORS:
        raise NotRunningError(release) from None
    except NO_RESPONSE_ERRORS as error:
        reason = f"{release} broke off its response to the probe {probe.name!r} ({type(error).__name__}: {error})."
        raise MobiusError("instance_failed", reason) from None


def matches(expected: Any, actual: Any) -> bool:
    """Whether `actual` holds `expected`: objects by the expected keys, all else by equality; true is not 1."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            key in actual and matches(value, actual[key]) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(matches, expected, actual))
    return isinstance(expected, bool) == isinstance(actual, bool) and bool(expected == actual)


def describe_difference(expected: Any, actual: Any, name: str = "") -> str:
    """How a response differs, as a part of a sentence: digests by their bits, all else by both values.

    Args:
        name: of the value, with those of the objects around it: `size.width`; empty for the whole response.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        prefix = f"{name}." if name else ""
        wrong = [key for key in expected if key not in actual or not matches(expected[key], actual[key])]
        parts = [describe_difference(expected[key], actual.get(key), f"{prefix}{key}") for key in wrong]
        if name == "" and isinstance(body := actual.get("body"), str) and body and "body" not in expected:
            parts.append(f"the body begins with {' '.join(body.split())}")
        return ", ".join(parts)
    subject = name or "the response"
    if actual is None:
        return f"{subject} is missing, expected {format_json(expected)}"
    if isinstance(expected, str) and isinstance(actual, str):
        bits = differing_bits(expected, actual)
        if bits is not None:
            return f"{bits} of {4 * len(expected)} bits of {subject} differ, expected {expected}, actual {actual}"
    return f"{subject} is {format_json(actual)}, expected {format_json(expected)}"


def differing_bits(one: str, other: str) -> int | None:
    """In how many bits two digests differ; None for what is not two digests of one length."""
    if len(one) != len(other) or not (DIGEST.fullmatch(one) and DIGEST.fullmatch(other)):
        return None
    return (int(one, 16) ^ int(other, 16)).bit_count()


def format_json(value: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= EXCERPT_MAX_CHARS else f"{text[: EXCERPT_MAX_CHARS - 3]}..."


def excerpt(body: bytes, size: int = EXCERPT_MAX_CHARS) -> str:
    """The beginning of a response, as text."""
    return body[:EXCERPT_MAX_CHARS].decode("utf-8", "replace")[:size]
