# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make lock`: compile the lock files again from `pyproject.toml`, with the newest versions that it allows.

They are universal (every Python from 3.11 on, every platform, by markers), name a SHA-256 for every file, and neither
an index nor a path, so that they mean the same everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LOCKS: dict[str, list[str]] = {
    "service.txt": ["--extra=service"],
    "development.txt": ["--all-extras", "--group=development"],
    # the same versions as for development
    "portable.txt": ["--extra=heic", "--group=portable", "--constraint=tools/locks/development.txt"],
    "bench.txt": ["--all-extras", "--group=development", "--group=bench"],
}


def main() -> int:
    """Compile each lock; the exit code of the first that fails."""
    for name, what in LOCKS.items():
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *what, "--upgrade", "--quiet"]
        command += ["--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url"]
        command += ["--custom-compile-command=make lock", f"--output-file=tools/locks/{name}"]
        done = subprocess.run(command, cwd=CHECKOUT, check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
