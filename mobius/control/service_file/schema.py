# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The JSON schema of `mobius.yml`, for editors: made from the table of keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mobius.control.service_file.keys import KEYS, Key, ValueType

SCHEMA_URL = "https://raw.githubusercontent.com/mobius/mobius/main/docs/mobius.schema.json"


def make_schema() -> dict[str, Any]:
    """The whole schema."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": SCHEMA_URL,
        "title": "mobius.yml, which describes a service that MOBIUS releases",
        **_object(KEYS),
    }


def schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(make_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(keys: Sequence[Key]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: {"description": _description(key), **_any_of(key.types)} for key in keys},
    }
    if required := [key.name for key in keys if key.is_required]:
        schema["required"] = required
    return schema


def _description(key: Key) -> str:
    text = " ".join(key.description.split())
    return f"{text} Without it: {key.default}." if key.default else text


def _any_of(types: Sequence[ValueType]) -> dict[str, Any]:
    schemas = [_type(each) for each in types]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _type(each: ValueType) -> dict[str, Any]:
    if each.keys:
        return _object(each.keys)
    schema: dict[str, Any] = {"type": each.kind}
    if each.pattern:
        schema["pattern"] = f"^(?:{each.pattern})$"
    if each.minimum is not None:
        schema["minimum"] = each.minimum
    if each.maximum is not None:
        schema["maximum"] = each.maximum
    if each.choices:
        schema["enum"] = list(each.choices)
    if each.items:
        schema["items"] = _any_of(each.items)
    if each.names:
        schema["propertyNames"] = {"pattern": f"^(?:{each.names})$"}
    if each.values:
        schema["additionalProperties"] = _any_of(each.values)
    return schema
