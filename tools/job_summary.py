# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a job of CI says of itself: what passed, what failed and why, and what each exit code of `mobius` means.

Markdown on standard output, from the JUnit files in a folder. Runs with any Python, before anything is installed.
Files of more than `REPORT_MAX_BYTES` are removed from the folder, so that what is kept has a limit.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mobius.errors import TEAMS, ExitCode

REPORT_MAX_BYTES = 5_000_000
_SHOWN = 20


def summarize(folder: Path) -> str:
    """The page for all JUnit files of a folder. It says so when there are none: a job without tests proves nothing."""
    lines = ["## Tests", ""]
    failures: list[tuple[str, str]] = []
    files = sorted(folder.glob("*.xml"))
    suites = [(path.stem, suite) for path in files for suite in _suites(path)]
    if not suites:
        lines.append("No test has reported anything.")
    else:
        lines += ["| series | passed | failed | skipped | minutes |", "|---|---|---|---|---|"]
    for name, suite in suites:
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        minutes = float(suite.get("time", 0)) / 60
        lines.append(f"| {name} | {tests - bad - skipped} | {bad} | {skipped} | {minutes:.1f} |")
        for case in suite.iter("testcase"):
            for problem in (*case.findall("failure"), *case.findall("error")):
                reason = (problem.get("message") or "").strip().splitlines()
                failures.append((f"{case.get('classname')}::{case.get('name')}", reason[0] if reason else ""))
    lines += [f"- `{name}`: {reason}" for name, reason in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"- and {len(failures) - _SHOWN} more")
    lines += ["", "## Exit codes of `mobius`", "", "| code | meaning | team |", "|---|---|---|"]
    lines += [f"| {int(code)} | {code.name.lower()} | {TEAMS.get(code, '')} |" for code in ExitCode]
    return "\n".join(lines) + "\n"


def _suites(path: Path) -> list[ElementTree.Element]:
    try:
        return list(ElementTree.parse(path).getroot().iter("testsuite"))  # noqa: S314 - written by our own pytest
    except ElementTree.ParseError:
        return []  # coverage.xml has none, and a test run that was killed leaves half a file


def main() -> int:
    """Print the page; remove files that are too large."""
    folder = Path(sys.argv[1])
    sys.stdout.write(summarize(folder))
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_file() and path.stat().st_size > REPORT_MAX_BYTES:
            sys.stdout.write(f"\n{path.name} has {path.stat().st_size} bytes, which is too large to be kept.\n")
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
