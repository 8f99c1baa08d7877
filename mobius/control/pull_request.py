# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The text of a pull request, filled with what was really run on its commit.

Each line of the template's list has its evidence in a file that the run itself has left: the reports of tests and lint
in `test-results/`, the history of runs, the report of `mobius smoke`, the bundles in `dist/`, the demo's summary. It
counts only for the commit that is checked out, without a change. What has none is said to be not run.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius.errors import MobiusError
from mobius.manifest import Bundle, ManifestError, read_bundle, release_of

TEST_SERIES = ("unit", "with-molecule", "beside-it")
"""The series of `make test`: each leaves `test-results/<name>.evidence.json`."""


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out, and the subjects of the commits that the pull request brings, oldest first."""

    digest: str
    is_clean: bool
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class PullRequest:
    """A title and a body in Markdown; `open_items` are the names of what was not run."""

    title: str
    body: str
    open_items: tuple[str, ...]


def read_commit(folder: Path, base: str) -> Commit:
    """The commit of a checkout, with the subjects of the commits since `base`, oldest first.

    Raises:
        MobiusError: invalid_input, when the folder is no checkout, or there is no such base.
    """
    digest = _git(folder, "rev-parse", "HEAD")
    subjects = _git(folder, "log", "--reverse", "--format=%s", f"{base}..HEAD", "--").splitlines()
    return Commit(digest, _git(folder, "status", "--porcelain") == "", tuple(subjects))


def _git(folder: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MobiusError("missing_dependency", "git is not installed; a pull request is made from a commit.") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()
        raise MobiusError("invalid_input", f"git {arguments[0]} in {folder}: {reason[0] if reason else 'it failed'}.")
    return done.stdout.strip()


def collect_evidence(folder: Path, commit: Commit, runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What was run on this commit: the name of an item of the template's list to one line of evidence.

    Args:
        folder: the checkout.
        runs: as `mobius.control.history.query.read_runs` gives them.
    """
    if not commit.is_clean:
        return {}  # nothing was run on what is there now
    bundles = _bundles_of(folder / "dist", commit.digest)
    evidence = {
        "lint": _series(folder, ("lint",), commit.digest),
        "tests": _series(folder, TEST_SERIES, commit.digest),
        "smoke": _smoke(folder / "test-results/smoke.json", {bundle.release_id for bundle in bundles}),
        "digests": ", ".join(f"`{bundle.path.name}` sha256 `{bundle.sha256}`" for bundle in bundles),
        "figures": _figures(folder / "demo/summary.json", commit.digest),
        **_runs(runs, commit.digest),
    }
    return {name: line for name, line in evidence.items() if line}


def fill_template(template: str, commit: Commit, evidence: Mapping[str, str]) -> PullRequest:
    """The pull request: items with evidence are ticked and show it, the others say that they were not run."""
    open_items: list[str] = []

    def fill(match: re.Match[str]) -> str:
        name, command = match["name"], match["command"]
        if name in evidence:
            return f"- [x] {name}: {evidence[name]}"
        open_items.append(name)
        return f"- [ ] {name}: not run on this commit ({command})"

    body = re.sub(r"^- \[ \] (?P<name>[a-z]+): (?P<command>`.+)$", fill, template, flags=re.MULTILINE)
    body = re.sub(r"^<!-- `mobius pr`.*?-->\n", f"On commit {commit.digest}.\n", body, flags=re.MULTILINE | re.DOTALL)
    changes = "\n".join(f"- {subject}" for subject in commit.subjects)
    heading = "## What changes, and for whom\n"
    body = body.replace(heading, f"{heading}\n{changes}\n" if changes else heading, 1)
    title = commit.subjects[-1] if commit.subjects else ""
    return PullRequest(title, body, tuple(open_items))


def _series(folder: Path, names: tuple[str, ...], digest: str) -> str:
    """One line for all these series; empty unless each ended well on this commit."""
    lines = []
    for name in names:
        report = _read(folder / "test-results" / f"{name}.evidence.json")
        if report.get("commit") != digest or report.get("is_clean") is not True or report.get("exit_code") != 0:
            return ""
        counts = ", ".join(f"{report[count]} {count}" for count in ("passed", "failed", "skipped") if report.get(count))
        lines.append(f"{name} {counts}".strip() if counts else f"{name} found nothing")
    return "; ".join(lines)


def _runs(runs: Iterable[Mapping[str, Any]], digest: str) -> dict[str, str]:
    """The newest successful run of each kind, by its id."""
    evidence: dict[str, str] = {}
    for run in runs:
        intent = run["intent"]
        if (intent.get("commit"), intent.get("clean"), run["outcome"]) != (digest, True, "success"):
            continue
        playbook = Path(str(run["playbook"])).stem
        kind = "plan" if run["check"] else playbook
        if run["check"] and playbook not in ("release", "deploy", "promote"):
            continue
        if kind in ("plan", "backup", "release", "rollback"):
            where = f"{len(run['hosts'])} hosts of {run['inventory']}"
            evidence[kind] = f"run {run['run']} on {where}" + (f", to {run['to_release']}" if kind != "backup" else "")
    return evidence


def _smoke(path: Path, built: set[str]) -> str:
    """The line for a report of `mobius smoke`: every check passed, on releases that were built from this commit."""
    reports = _read(path).get("smoke")
    if not isinstance(reports, dict) or not reports:
        return ""
    releases = {release_of(str(report.get("release"))) for report in reports.values()}
    checks = [check for report in reports.values() for check in report.get("checks", [])]
    if not checks or not all(check.get("ok") for check in checks) or not releases <= built:
        return ""
    return f"{len(checks)} checks on {len(reports)} hosts, all good, with {', '.join(sorted(releases))}"


def _figures(path: Path, digest: str) -> str:
    summary = _read(path)
    if summary.get("commit") != digest or summary.get("held") is not True:
        return ""
    return (
        f"demo on {summary['hosts']} hosts: {summary['requests_sent']} requests, {summary['requests_failed']} failed; "
        f"rolled back in {summary['rollback_seconds']:.2f} s; took {summary['seconds_total']:.0f} s"
    )


def _bundles_of(folder: Path, digest: str) -> list[Bundle]:
    """The bundles in `folder` that were built from this commit, by name."""
    bundles = []
    for path in sorted(folder.glob("*.tar.gz")):
        if path.is_symlink():
            continue  # to one that is in the folder too
        try:
            bundle = read_bundle(path)
        except (ManifestError, OSError):
            continue  # something else, or damaged: no evidence
        if bundle.manifest.commit == digest:
            bundles.append(bundle)
    return bundles


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none, or the file is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
