# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report as a person meets it, in headless Chromium: on a screen, on a telephone, on paper."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mobius.cli import run as mobius
from mobius.control.history.query import read_runs
from mobius.control.history.recorder import decision_data
from mobius.control.history.report import dora
from mobius.control.history.writer import History, Holder
from mobius.control.run.outcome import HostReport, decide
from tests.browser import browser

__all__ = ["browser"]

ONE, TWO = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"
NASTY = "<script>document.title='sprung'</script>"


def one_run(history: History, monkeypatch, at: str, playbook: str, outcome: str, before: str | None, after: str | None):
    """A run that starts at `at` and ends ten minutes later, on two hosts."""
    run, holder = f"run-{at}-{playbook.split('.')[0]}", Holder.of(os.getpid())
    monkeypatch.setattr("mobius.control.history.writer.now", lambda: f"2026-01-{at}:00:00.000000Z")
    check = outcome == "check"
    change = {"ticket": f"OPS-{at[:2]}", "release_owner": NASTY}
    intent = {"actor": "ada@control", "from": {"machine": "control"}, "playbook": f"playbooks/{playbook}"}
    history.open(run, holder, {**intent, "inventory": "inventories/production", "check": check, "change": change})
    evidence = {"p95_ms": {"old": 10.5, "new": 21.0}, "errors": {"old": 0, "new": 1}}
    for host in ("lab1", "lab2"):
        fields = {"verdict": "fail" if outcome == "rolled_back" else "pass", "evidence": evidence}
        data = {
            "host": host,
            "module": "mobius.dhash.gate",
            "task": "Ask the instance",
            "status": "ok",
            "fields": fields,
        }
        history.add(run, data)
    if playbook == "release.yml" and not check:
        verdict = "pass" if outcome == "success" else "fail"
        noted = {host: {"verdict": verdict, "reason": "seen", "evidence": evidence} for host in ("lab1", "lab2")}
        made = decide([HostReport(host, True, message) for host, message in noted.items()], check_mode=False)
        history.decide(run, decision_data({"release": after}, made, noted))
    monkeypatch.setattr("mobius.control.history.writer.now", lambda: f"2026-01-{at}:10:00.000000Z")
    hosts = {
        host: {"from_release": before, "to_release": after, "gate": "pass", "outcome": "success"}
        for host in ("lab1", "lab2")
    }
    ended = "success" if check else outcome
    history.close(run, ended, {"duration_ms": 600_000, "hosts": hosts})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    history = History(tmp_path / "history")
    one_run(history, monkeypatch, "01T10", "release.yml", "success", None, ONE)
    one_run(history, monkeypatch, "02T10", "release.yml", "check", ONE, ONE)
    one_run(history, monkeypatch, "03T10", "release.yml", "rolled_back", ONE, ONE)
    one_run(history, monkeypatch, "04T10", "release.yml", "success", ONE, TWO)
    one_run(history, monkeypatch, "04T12", "rollback.yml", "success", TWO, ONE)
    one_run(history, monkeypatch, "05T10", "release.yml", "success", ONE, TWO)
    return tmp_path / "history"


def test_the_dora_figures_count_changes_and_leave_check_runs_out(folder):
    figures = dora(read_runs(folder))
    assert figures.deployments_a_day == pytest.approx(3 / 4)  # three good ones in the four days from first to last
    assert figures.lead_time == 600
    assert figures.failure_rate == 2 / 4  # one taken back by its gate, one by a rollback
    assert figures.time_to_restore == pytest.approx((24 * 3600 + 600 + 2 * 3600 + 600) / 2)


def test_without_a_change_there_are_no_figures():
    assert set(vars(dora([])).values()) == {None}


def visit(browser: Browser, path: Path, **options: object) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(15_000)
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    return page


@pytest.fixture
def path(folder: Path, tmp_path: Path) -> Path:
    assert (
        mobius(["history", "report", "--dir", str(folder), "--offline", "--output", str(tmp_path / "page.html")]) == 0
    )
    return tmp_path / "page.html"


def test_the_page_asks_for_nothing_shows_every_run_and_filters_them(browser, path):
    page = visit(browser, path)
    expect(page.locator("#verdict")).to_contain_text("unwitnessed")
    expect(page.locator("#dora div")).to_have_count(4)
    expect(page.locator("#timeline text").first).to_have_text("lab1")
    expect(page.locator("#timeline a")).to_have_count(10)  # five changes on two hosts, and no check run
    runs = page.locator("details[data-run]:visible")
    expect(runs).to_have_count(6)
    page.select_option("select[name=playbook]", "rollback.yml")
    expect(runs).to_have_count(1)
    page.select_option("select[name=playbook]", "")
    page.select_option("select[name=kind]", "check")
    expect(page.locator("#seen")).to_have_text("1 of 6 runs")
    page.select_option("select[name=kind]", "")
    page.fill("input[name=text]", "ops-05")
    expect(runs).to_have_count(1)
    runs.first.locator("summary").click()
    expect(runs.first.locator("table.gate")).to_have_count(4)  # two figures on two hosts
    expect(runs.first).to_contain_text(NASTY)
    expect(runs.first).to_contain_text(f"confirm {TWO} at 2026-01-05T10")
    assert page.title() == "History of releases"
    assert page.complaints == []
    assert page.asked == [path.as_uri()]


def test_a_mark_on_the_timeline_opens_its_run(browser, path):
    page = visit(browser, path)
    page.locator("#timeline a").last.click()
    expect(page.locator("details[open]")).to_have_count(1)
    expect(page.locator("details[open] summary")).to_contain_text("run-05T10-release")


def test_a_telephone_never_scrolls_sideways_even_with_all_runs_open(browser, path):
    page = visit(browser, path, viewport={"width": 360, "height": 740}, has_touch=True)
    page.evaluate("document.querySelectorAll('details').forEach(run => run.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_paper_has_every_run_open_and_no_form(browser, path, tmp_path):
    page = visit(browser, path)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("details[open]")).to_have_count(6)
    expect(page.locator("form")).to_be_hidden()
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_a_damaged_history_says_so_on_the_page(browser, folder, tmp_path):
    records = folder / "history.jsonl"
    records.write_bytes(records.read_bytes().replace(b"ada@control", b"eve@control", 1))
    assert (
        mobius(["history", "report", "--dir", str(folder), "--offline", "--output", str(tmp_path / "page.html")]) == 0
    )
    page = visit(browser, tmp_path / "page.html")
    expect(page.locator("#verdict")).to_contain_text("damaged")
    expect(page.locator("p.bad").first).to_contain_text("Record 1")
