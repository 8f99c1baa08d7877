# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A running service of this checkout, for the benchmarks that send it requests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click


@contextlib.contextmanager
def run_service(index: Path, **environment: str) -> Iterator[tuple[int, int]]:
    """Run the service on an index until the context ends; yields its port and its process.

    Args:
        environment: variables of its own; those of MOBIUS in the caller's are left out.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOBIUS_")}
    command = [sys.executable, "-m", "mobius.cli", "dhash", "serve", "--port", "0", "--index", str(index)]
    process = subprocess.Popen(command, env={**kept, **environment}, text=True, stdout=-1, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise click.ClickException("The service did not start.")
        yield int(address.rstrip("/").rpartition(":")[2]), process.pid
    finally:
        process.kill()
        process.communicate()
