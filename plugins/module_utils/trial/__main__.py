# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a trial: its settings as JSON on stdin, its report as JSON on stdout."""

from __future__ import annotations

import json
import signal
import sys

from ..errors import MobiusError
from .settings import TrialSettings
from .trial import Trial

ENDED_BY_SIGTERM = 143  # as a shell reports it


def main() -> int:
    """Run it. SIGTERM ends it as an error does: its processes are ended first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED_BY_SIGTERM))
    try:
        report = Trial(TrialSettings.parse(json.load(sys.stdin))).run()
    except MobiusError as error:
        print(json.dumps({"mobius_failure": error.as_dict()}))
        return int(error.code)
    print(json.dumps(report.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
