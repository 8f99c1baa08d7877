# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OpenAPI document, its committed file and the routes agree."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import prometheus_client

from mobius.dhash import Fingerprint, hash_bytes
from mobius.service import app, golden, openapi
from mobius.service.instance import Instance
from mobius.service.metrics import Metrics
from mobius.service.settings import ServiceSettings

CHECKOUT = Path(__file__).parents[3]


def instance() -> Instance:
    settings = ServiceSettings()
    return Instance(settings, Metrics(prometheus_client.CollectorRegistry(), settings))


def test_the_committed_file_is_the_document() -> None:
    committed = (CHECKOUT / "docs/openapi.json").read_text(encoding="utf-8")
    assert committed == openapi.text(), "run: python -m mobius.service.openapi > docs/openapi.json"


def test_every_route_is_documented_and_nothing_else() -> None:
    documented = {(method.upper(), path) for path, of_path in openapi.document()["paths"].items() for method in of_path}
    assert {(route.method, route.path) for route in app.endpoints(instance())} == documented


def test_the_document_says_which_routes_need_a_token() -> None:
    security = {"write": [{"token": []}], "read": [{}, {"token": []}], "free": None}
    for route in app.endpoints(instance()):
        operation = openapi.document()["paths"][route.path][route.method.lower()]
        assert operation.get("security") == security[route.access], route.path
        assert ("401" in operation["responses"]) == (route.access != "free"), route.path
        assert ("403" in operation["responses"]) == (route.access != "free"), route.path


def test_operation_ids_are_unique_and_every_reference_resolves() -> None:
    document = openapi.document()
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    used = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                used.add(node["$ref"].rpartition("/")[2])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert used == set(document["components"]["schemas"])


def test_a_fingerprint_matches_its_schema() -> None:
    fingerprint: Fingerprint = hash_bytes(golden.PICTURE)
    schema = openapi.document()["components"]["schemas"]["Fingerprint"]
    jsonschema.validate(fingerprint.as_dict(), {**schema, "additionalProperties": False})
