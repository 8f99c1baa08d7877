# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command of an auditor, who has this folder and nothing else of MOBIUS."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import verify


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Verify a history of runs.")
    parser.add_argument("folder", type=Path, help="holds history.jsonl and head.json")
    parser.add_argument(
        "--witnesses", type=Path, metavar="FILE", help="what `mobius history verify --save-witnesses FILE` wrote"
    )
    parser.add_argument("--signers", type=Path, metavar="FILE", help="allowed_signers, as ssh-keygen reads it")
    parser.add_argument(
        "--other-chain", action="append", default=[], metavar="ID", help="another history of these hosts"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: exit code 0 when the history is whole, 2 when it is not, 1 when it cannot be read."""
    options = _parser().parse_args(arguments)
    try:
        witnesses = json.loads(options.witnesses.read_text(encoding="utf-8")) if options.witnesses else None
        verdict = verify(options.folder, witnesses=witnesses, signers=options.signers, others=options.other_chain)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = (
        json.dumps(verdict.as_dict(), indent=2, sort_keys=True)
        if options.format == "json"
        else "\n".join(verdict.lines())
    )
    sys.stdout.write(f"{text}\n")
    return 2 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
