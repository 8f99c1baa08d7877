"""Makes docs/EXIT_CODES.md from the one table: `python -m tools.exit_codes_page > docs/EXIT_CODES.md`."""

from __future__ import annotations

from mobius.errors import OUTCOMES, TEAMS, ExitCode

MEANINGS = {
    ExitCode.SUCCESS: "success",
    ExitCode.INPUT: "input or configuration",
    ExitCode.PROCESSING: "processing, or a failed gate",
    ExitCode.ENVIRONMENT: "environment: a missing dependency, an unreachable or diverged host",
    ExitCode.TIMEOUT: "time-out",
    ExitCode.RESOURCES: "resources: disk or memory",
}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# What does an exit code or an outcome mean?",
        "",
        "`mobius` and `mobius-host` end with one of six exit codes; a plain `ansible-playbook` run has Ansible's own",
        "code and prints the outcome and ours in its last lines. Every failed task of ours carries",
        "`mobius_failure: {code, outcome, reason, do_next}`. This page is made from the table in `mobius/errors.py`; a",
        "test compares them.",
        "",
        "| exit code | means | team |",
        "|---|---|---|",
        *(f"| {int(code)} | {MEANINGS[code]} | {TEAMS[code]} |" for code in ExitCode),
        "",
        "| outcome | exit code | what it means | what to do next |",
        "|---|---|---|---|",
        *(
            f"| `{entry.name}` | {int(entry.code)} | {entry.meaning} | {entry.do_next} |"
            for entry in sorted(OUTCOMES.values(), key=lambda entry: (entry.code, entry.name))
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
