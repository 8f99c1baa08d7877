"""`make setup` makes a virtual environment once, and finishes what a killed run left.

The checkout here is a small one with an empty lock and a package without dependencies, so that nothing is downloaded;
the script, the virtual environment and pip are real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import setup

# The smallest build backend there can be: pip asks it for an editable wheel of the checkout.
BACKEND = """
import zipfile

NAME = "mobius_dhash-0.1.0"
FILES = {
    "mobius_here.pth": "",
    f"{NAME}.dist-info/METADATA": "Metadata-Version: 2.1\\nName: mobius-dhash\\nVersion: 0.1.0\\n",
    f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{NAME}.dist-info/entry_points.txt": "[console_scripts]\\nmobius = this:run\\nansible-playbook = this:run\\n",
}


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"{NAME}-py3-none-any.whl"
    record = "".join(f"{path},,\\n" for path in FILES) + f"{NAME}.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        for path, text in {**FILES, f"{NAME}.dist-info/RECORD": record}.items():
            wheel.writestr(path, text)
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "mobius-dhash"
version = "0.1.0"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in ((str(setup.LOCK), "# empty\n"), ("pyproject.toml", PROJECT), ("backend.py", BACKEND)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(setup.__file__, tmp_path / "tools" / "setup.py")
    return tmp_path


def start(checkout: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "tools/setup.py"]
    return subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(checkout: Path) -> list[str]:
    process = start(checkout)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def test_a_run_killed_at_the_start_is_finished_by_the_next_and_then_nothing_is_done_in_a_second(checkout: Path) -> None:
    kill_after(checkout, "making the virtual environment")
    # the part of the killed run that lives on is waited for
    said = run(checkout)
    assert said[0] == "setup: waiting for another setup of this checkout"
    assert said[-1] == "setup: done"
    assert (checkout / ".venv" / "bin" / "mobius").exists()

    made = (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    before = os.times()
    assert run(checkout) == ["setup: everything is there"]
    after = os.times()
    # processor time, which does not depend on what else the machine is doing
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    assert (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made


def test_a_run_killed_near_the_end_is_finished_without_beginning_anew(checkout: Path) -> None:
    kill_after(checkout, "installing mobius itself")
    said = run(checkout)
    assert not any("making the virtual environment" in line for line in said)
    assert said[-1] == "setup: done"
    assert run(checkout) == ["setup: everything is there"]


def kill_after(checkout: Path, last_words: str) -> None:
    """Kill a run as soon as it has begun the step that it announces with these words."""
    process = start(checkout)
    assert process.stdout is not None
    while last_words not in process.stdout.readline():
        pass
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    # not for the end of its output: what it started has the same pipe, and lives on
    process.wait(timeout=10)
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert not (checkout / ".venv" / setup.STAMP).exists()
