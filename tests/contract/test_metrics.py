"""The table of metrics: its page, the names by Prometheus's own check, and what the service really exposes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mobius.metric_table import COUNTER, HISTOGRAM, METRICS, SERVICE, make_labels
from mobius.service.metrics import Metrics
from mobius.service.settings import ServiceSettings
from tools.metrics_page import page

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_page_of_metrics_is_made_from_the_table() -> None:
    assert (CHECKOUT / "docs/metrics.md").read_text(encoding="utf-8") == page()


def test_every_metric_has_a_sentence_and_its_own_labels() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name and metric.meaning.endswith("."), name
        assert len(set(metric.labels)) == len(metric.labels), name


SERIES = re.compile(r'\b(mobius_[a-z_]+)\{((?:[a-z_]+(?:=~|!=|!~|=)\\*"[^"\n]*",?)+)\}')


def test_a_series_that_a_file_names_is_in_the_table_with_its_labels() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    named, unknown = 0, []
    for path in listed.decode().split("\0"):
        if not path.endswith((".md", ".yml", ".j2", ".json", ".py")) or (CHECKOUT / path).is_symlink():
            continue
        if not (CHECKOUT / path).is_file():
            continue
        for name, labels in SERIES.findall((CHECKOUT / path).read_text(encoding="utf-8")):
            named += 1
            metric = METRICS.get(re.sub("_(bucket|sum|count)$", "", name)) or METRICS.get(name)
            used = set(re.findall(r"([a-z_]+)(?:=|!)", labels)) - {"le"}
            if metric is None or not used <= {*metric.labels, "release"}:
                unknown.append(f"{path}: {name}{{{labels}}}")
    assert named > 10 and unknown == []


def whole_page() -> str:
    """A page with each metric of the table once."""
    lines = []
    for metric in METRICS.values():
        labels = make_labels(dict.fromkeys(metric.labels, "x"))
        lines += metric.head()
        if metric.kind == HISTOGRAM:
            bucket = make_labels({**dict.fromkeys(metric.labels, "x"), "le": "+Inf"})
            lines += [
                f"{metric.name}_bucket{bucket} 1",
                f"{metric.name}_count{labels} 1",
                f"{metric.name}_sum{labels} 1",
            ]
        else:
            lines.append(f"{metric.name}{labels} 1")
    return "\n".join([*lines, ""])


def check(text: str) -> str:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing; run `make setup`"
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def test_promtool_accepts_every_name() -> None:
    assert check(whole_page()) == ""


@pytest.mark.parametrize("name", ["mobius_backup_count", "mobius_age_minutes"])
def test_promtool_refuses_names_that_break_the_rules(name: str) -> None:
    assert name in check(f"# HELP {name} Some figure.\n# TYPE {name} gauge\n{name} 1\n")


def test_the_service_exposes_what_the_table_has_of_it() -> None:
    metrics = Metrics(CollectorRegistry(), ServiceSettings())
    metrics.request("/v1/hash", "POST", 200, 0.1)
    metrics.hashed("fast", 0.1)
    metrics.failed("damaged")
    families = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        if family.name.startswith("mobius_") and not family.name.endswith("_created"):
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            families[family.name.removesuffix(suffix) + suffix] = (
                family.type.replace("info", "gauge"),
                labels,
                family.documentation,
            )
    expected = {
        name: (metric.kind, set(metric.labels), metric.meaning)
        for name, metric in METRICS.items()
        if metric.source == SERVICE
    }
    assert families == expected
    assert COUNTER in {kind for kind, _, _ in families.values()}
