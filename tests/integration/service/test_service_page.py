# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""docs/service.md documents everything that a running service has, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mobius.service import app
from mobius.service.settings import ServiceSettings
from mobius.service.tokens import line_for, new_token
from tests.integration.service.samples import PICTURE, bearer, flat

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

ROOT = Path(__file__).parents[3]
OLD = "1.0.0-aaaaaaaaaaaa"


def table(first: str) -> dict[str, list[str]]:
    """The table of the page with this first column: first cell, without backticks, to the other cells."""
    page = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    match = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert match is not None, first
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[1].splitlines()]
    table_rows = {row[0].strip("`"): row[1:] for row in rows}
    assert len(table_rows) == len(rows), "a row is duplicated"
    return table_rows


@pytest.fixture
def service(host: ServiceHost, tmp_path: Path) -> RunningInstance:
    """In production mode, with an index, after some traffic."""
    token = new_token()
    (tmp_path / "tokens").write_text(line_for("ada", token) + "\n")
    instance = host.start(
        OLD, state="serving", environment="production", log_file=str(tmp_path / "service.log"), log_level="DEBUG",
        index=str(tmp_path / "index.sqlite"), tokens=str(tmp_path / "tokens"),
    )  # fmt: skip
    with host.client() as client:
        for picture in (PICTURE, flat(0), flat(20)):
            assert client.post("/v1/images", content=picture, headers=bearer(token)).status_code == 201
        assert client.post("/v1/hash", content=b"no picture").status_code == 415
        assert client.get("/nothing").status_code == 404
    return instance


def test_the_endpoints_are_those_of_the_page(host: ServiceHost, service: RunningInstance) -> None:
    documented = table("endpoint")
    assert documented.keys() == {f"{route.method} {route.path}" for route in app.endpoints(instance_with_settings())}
    with host.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert documented.keys() == {
            f"{method.upper()} {path}" for path, of_path in paths.items() for method in of_path
        }
        for name, (who, _) in documented.items():
            method, _, path = name.partition(" ")
            path = path.format(sha256="0" * 64, id=f"{'0' * 16}-{'1' * 16}")
            status = client.request(method, path).status_code
            expected = {"write": {401}, "free": {200}, "read": {200, 404, 415}}[who]
            assert status in expected, name


def instance_with_settings() -> Any:
    """The part of an instance that is needed to list its routes."""
    return type("InstanceStub", (), {"settings": ServiceSettings()})()


def test_the_statuses_are_those_of_the_document_and_of_the_connection(
    host: ServiceHost, service: RunningInstance
) -> None:
    documented = {
        status
        for of_path in service.client.get("/openapi.json").json()["paths"].values()
        for operation in of_path.values()
        for status in operation["responses"]
        if status >= "400"
    }
    assert table("status").keys() == documented | {"405", "414", "431"}


def test_the_health_checks_and_their_units_are_those_of_the_page(service: RunningInstance) -> None:
    checks = service.client.get("/health").json()["checks"]
    documented = {name: cells[0] for name, cells in table("check").items()}
    assert documented == {name: check["observedUnit"] for name, (check,) in checks.items()}


def test_the_metrics_and_their_labels_are_those_of_the_page(host: ServiceHost, service: RunningInstance) -> None:
    service.wait_until(lambda figures: figures["images"] == 3)
    with host.client() as client:
        page, figures = client.get("/metrics").text, client.get("/metrics/dhash").json()
    labels_of = {}
    for family in text_string_to_metric_families(page):
        labels = {name for sample in family.samples for name in sample.labels} - {"le", "release"}
        labels_of[family.name + ("_total" if family.type == "counter" else "")] = labels
        assert all(sample.labels["release"] == OLD for sample in family.samples), family.name
        assert family.documentation
    assert {name: set(re.findall(r"`(\w+)`", cells[0])) for name, cells in table("metric").items()} == labels_of
    assert table("figure").keys() == figures.keys()


def test_the_fields_of_the_log_are_those_of_the_page(service: RunningInstance, tmp_path: Path) -> None:
    assert service.stop() == 0
    rehearsal = tmp_path / "rehearsal.log"
    command = [sys.executable, "-m", "mobius.service.smoke", "--rehearse", str(rehearsal)]
    subprocess.run(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, check=False)
    lines = [
        json.loads(line)
        for file in (tmp_path / "service.log", rehearsal) for line in file.read_text(encoding="utf-8").splitlines()
    ]  # fmt: skip
    fields = table("field")
    assert all(line.keys() == fields.keys() for line in lines)
    assert lines[0]["resource"].keys() == set(re.findall(r"`([\w.]+)`", fields["resource"][0]))
    attributes = {name for line in lines for name in line["attributes"]} - {"db.password"}
    assert attributes == table("attribute").keys()
    every = {name for name, (of, _) in table("attribute").items() if of == "every line"}
    assert all(every <= line["attributes"].keys() for line in lines)


def test_the_settings_and_their_defaults_are_those_of_the_page() -> None:
    documented = table("setting")
    assert [*documented] == [field.name for field in dataclasses.fields(ServiceSettings)]
    for field in dataclasses.fields(ServiceSettings):
        default = documented[field.name][0]
        if re.fullmatch(r"`[^`]*`", default):
            value = field.default
            text = (
                f"{value[0]}:{value[1]}"
                if field.name == "address"
                else ",".join(value)
                if isinstance(value, tuple)
                else f"{value:g}"
                if isinstance(value, float)
                else value
            )
            assert default == f"`{text}`", field.name
        else:
            assert default.startswith(("none", "required", "of the", "CPUs")), field.name


def test_the_requests_of_the_page_work(host: ServiceHost, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the page's examples use curl"
    host.start(OLD, index=str(tmp_path / "index.sqlite"), writes="open")
    (tmp_path / "holiday.jpg").write_bytes(PICTURE)
    page = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    lines = re.findall(r"^curl .*$", page, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line.replace("127.0.0.1:8080", f"127.0.0.1:{host.port}").replace("Bearer $TOKEN", "none")],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        json.loads(done.stdout)
