# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a trial: its settings as JSON on stdin, its report as JSON on stdout."""

from __future__ import annotations

import json
import sys

from ..errors import MobiusError
from .settings import TrialSettings
from .trial import Trial


def main() -> int:
    """Run it."""
    try:
        report = Trial(TrialSettings.parse(json.load(sys.stdin))).run()
    except MobiusError as error:
        print(json.dumps({"mobius_failure": error.as_dict()}))
        return int(error.code)
    print(json.dumps(report.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
