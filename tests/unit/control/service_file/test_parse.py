# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius.yml` is read as a person means it, and what is wrong is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mobius.control.service_file.example import example_text
from mobius.control.service_file.keys import KEYS, NOT_YET, Key
from mobius.control.service_file.parse import parse_service_file
from mobius.control.service_file.schema import make_schema, schema_text
from mobius.errors import ExitCode, MobiusError

CHECKOUT = Path(__file__).resolve().parents[4]
PATH = Path("mobius.yml")
SHORT = "service: shop\nexec: bin/serve\n"
DESIGN = """\
service: shop
listen: 8000
exec: bin/gunicorn shop:app --bind {address}
health: /healthz
environment: { SHOP_ENV: production, WORKERS: 4 }
shared: [ uploads ]
probes: [ { name: front page, path: /, status: 200 } ]
"""


def refusal(text: str) -> str:
    with pytest.raises(MobiusError) as caught:
        parse_service_file(text, PATH)
    assert caught.value.outcome == "invalid_input"
    assert caught.value.code == ExitCode.INPUT
    return caught.value.reason


def test_the_file_of_the_design_is_read() -> None:
    values = parse_service_file(DESIGN, PATH)
    assert values["exec"] == "bin/gunicorn shop:app --bind {address}"
    assert values["environment"] == {"SHOP_ENV": "production", "WORKERS": 4}
    assert values["probes"] == [{"name": "front page", "path": "/", "status": 200}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("helth: /x", "mobius.yml:3: there is no key helth; the nearest known one is health."),
        ("front: {certficate: /x}", "mobius.yml:3: there is no key front.certficate; the nearest known one is certificate."),
        ("probes:\n- {name: a, path: /, statsu: 200}", "mobius.yml:4: there is no key probes[1].statsu; the nearest known one is status."),
        ("probes: [{name: a}]", "mobius.yml:3: probes[1].path is missing, such as `path: /`."),
        ("listen: 70000", "mobius.yml:3: listen is '70000', and has to be a whole number from 1 to 65535 or a text"),
        ("listen: true", "mobius.yml:3: listen is 'true'"),
        ("listen: 10.0.0.1:70000", "mobius.yml:3: listen has the port 70000"),
        ("kind: htpp", "mobius.yml:3: kind is 'htpp', and has to be one of http, tcp, worker."),
        ("environment: [A]", "mobius.yml:3: environment is a list, and has to be a mapping."),
        ("environment: {a-b: 1}", "mobius.yml:3: environment has the name 'a-b', which does not match [A-Z_][A-Z0-9_]*."),
        ("environment: {A: {B: 1}}", "mobius.yml:3: environment.A is a mapping, and has to be a text or"),
        ("environment: {A: !vault x}", "mobius.yml:3: environment.A has the tag !vault, and this file holds plain values only."),
        ("shared: [../etc]", "mobius.yml:3: shared[1] is '../etc'"),
        ("shared: [library]", "mobius.yml:3: shared[1] is 'library'"),
        ("service: other", "mobius.yml:3: service is there twice."),
        ("kind: worker\nlisten: 8000", "mobius.yml:4: listen has no meaning for the kind worker."),
        ("kind: tcp\nhealth: /x", "mobius.yml:4: health has no meaning for the kind tcp."),
        ("health_command: [a]", "mobius.yml:3: health_command is of a worker"),
        ("exec: |\n  a\n  b", "mobius.yml:3: exec is there twice."),
        ("overlap: nope", "mobius.yml:3: overlap is 'nope', and has to be true or false."),
        ("start_timeout: 0", "mobius.yml:3: start_timeout is '0', and has to be a whole number from 1 to 3600."),
        ("? [a]\n: b", "mobius.yml:3: a key of the file is no name."),
        ("a: [", "mobius.yml:4: this is not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(text: str, reason: str) -> None:
    assert refusal(SHORT + text + "\n").startswith(reason)


@pytest.mark.parametrize("text", ["", "- a", "shop", "service: shop"])
def test_a_file_that_describes_no_service_is_refused(text: str) -> None:
    assert refusal(text).startswith("mobius.yml:1: ")


@pytest.mark.parametrize("name", NOT_YET)
def test_a_planned_key_is_refused_with_what_to_do_meanwhile(name: str) -> None:
    assert refusal(f"{SHORT}{name}: x\n") == f"mobius.yml:3: {name} does nothing yet: {NOT_YET[name]}."
    assert name not in {key.name for key in KEYS}


def test_a_line_break_in_a_command_is_refused() -> None:
    assert refusal('service: shop\nexec: "bin/a\\nUser=root"\n').startswith("mobius.yml:2: exec is ")


def test_the_published_schema_is_made_from_the_table() -> None:
    assert (CHECKOUT / "docs/mobius.schema.json").read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft7Validator.check_schema(make_schema())


def examples(keys: tuple[Key, ...]) -> list[Any]:
    return [(key.name, yaml.safe_load(key.example)) for key in keys]


@pytest.mark.parametrize(("name", "value"), examples(KEYS))
def test_every_example_is_accepted_by_parser_and_schema(name: str, value: Any) -> None:
    worker = {"kind": "worker"} if name == "health_command" else {}
    values = {"service": "shop", "exec": "bin/serve", **worker, name: value}
    text = json.dumps(values if "redirect_port" not in str(value) else {**values, "front": {"http2": True}})
    assert parse_service_file(text, PATH)
    jsonschema.validate(json.loads(text), make_schema())


def inner_examples() -> list[Any]:
    return [
        (key.name, inner.name, yaml.safe_load(inner.example))
        for key in KEYS
        for each in key.types
        for inner in each.keys
        if inner.name != "redirect_port"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("outer", "name", "value"), inner_examples())
def test_every_inner_example_is_accepted(outer: str, name: str, value: Any) -> None:
    values = {"service": "shop", "exec": "bin/serve", outer: {name: value}}
    assert parse_service_file(json.dumps(values), PATH)
    jsonschema.validate(values, make_schema())


WRONG = [None, [], {}, "", "a b", 0, -1, 1.5, True, "x", ["x"], {"x": 1}, [[]], 10**9]


@pytest.mark.parametrize("key", [key.name for key in KEYS])
def test_parser_and_schema_agree(key: str) -> None:
    for value in WRONG:
        values = {"service": "shop", "exec": "bin/serve", key: value}
        is_valid = jsonschema.Draft7Validator(make_schema()).is_valid(values)
        try:
            parse_service_file(json.dumps(values), PATH)
        except MobiusError as error:
            assert not is_valid or "is of a worker" in error.reason, error.reason
        else:
            assert is_valid, value


def test_the_example_has_every_key_and_is_valid_with_all_of_them() -> None:
    text = example_text("shop")
    assert text.startswith("# yaml-language-server: $schema=https://")
    assert parse_service_file(text, PATH) == {"service": "shop", "exec": "bin/serve --listen {address}"}
    for key in KEYS:
        assert f"\n# {key.name}: " in text or f"\n{key.name}: " in text
    uncommented = "\n".join(
        line.removeprefix("# ")
        for line in text.splitlines()
        if any(line.startswith(f"# {key.name}: ") for key in KEYS if key.name not in ("health_command", "front"))
    )
    values = parse_service_file(f"service: shop\nexec: x\n{uncommented}\n", PATH)
    assert set(values) == {key.name for key in KEYS} - {"health_command", "front"}
