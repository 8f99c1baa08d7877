# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A large scan hashes in processes: the same comes out, whatever becomes of them, and none is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mobius.dhash import Fingerprint, Library, Unreadable, _hash_processes, _worker_process
from mobius.errors import OUTCOMES
from tests.unit.dhash.library_tools import exported, linux_only, make_folder

SLOW_SCAN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests may have ignored
from mobius.dhash import _hash_processes, _worker_process
_hash_processes.MIN_FILES_FOR_PROCESSES, _hash_processes._FILES_PER_REQUEST = 0, 50
_worker_process.PROGRAM = '''
import os, time
from mobius.dhash import _worker
hash_file, dots = _worker.hash_file, os.open(FIFO, os.O_WRONLY)  # its standard output is discarded
def slowly(*arguments, **options):
    os.write(dots, b".")
    time.sleep(0.1)
    return hash_file(*arguments, **options)
_worker.hash_file = slowly
'''.replace("FIFO", repr(sys.argv.pop())) + _worker_process.PROGRAM
from mobius.cli import main
main()
"""


pytestmark = linux_only
in_processes = pytest.mark.skipif(
    os.name != "posix", reason="where a process inherits no socket, a scan hashes in threads"
)


@pytest.fixture(autouse=True)
def processes_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hash_processes, "MIN_FILES_FOR_PROCESSES", 0)


def children_of(process: int) -> list[int]:
    """Those that hash. Whoever runs the tests may have others."""
    of_threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for children in of_threads for child in children.read_text().split() if hashes(child)]


def hashes(process: str) -> bool:
    try:
        return b"_worker import serve;" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def at_work(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_none_is_left(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(at_work(process) for process in processes):
        assert time.monotonic() < deadline, f"{processes} are left behind"
        time.sleep(0.02)


def in_threads(folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    with monkeypatch.context() as patch, Library(index) as library:
        patch.setattr(_hash_processes, "MIN_FILES_FOR_PROCESSES", 1 << 30)
        library.scan(folder, threads=2)
        return exported(library)


@in_processes
@pytest.mark.slow
def test_processes_find_what_threads_find_and_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 60)
    wanted = in_threads(folder, tmp_path / "threads", monkeypatch)
    seen: set[int] = set()
    with Library(tmp_path / "index") as library:
        report = library.scan(folder, threads=3, progress=lambda *_: seen.update(children_of(os.getpid())))
        assert exported(library) == wanted
    assert (report.hashed, [file.path for file in report.unreadable]) == (len(wanted), ["broken.png"])
    assert len(seen) >= 3
    assert not any(at_work(process) for process in seen)


@pytest.mark.slow
def test_one_thread_needs_no_process(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 10)
    with Library(tmp_path / "index") as library:
        library.scan(folder, threads=1, progress=lambda *_: pytest.fail("one") if children_of(os.getpid()) else None)


@in_processes
@pytest.mark.slow
def test_processes_that_are_killed_cost_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "library", 60)
    wanted = in_threads(folder, tmp_path / "threads", monkeypatch)
    killed = []

    def kill(done: int, _total: int) -> None:
        if done in (1, 17, 40):
            killed.extend([child for child in children_of(os.getpid()) if at_work(child)][:1])
            os.kill(killed[-1], signal.SIGKILL)
            until_none_is_left(killed)

    with Library(tmp_path / "index") as library:
        report = library.scan(folder, threads=2, progress=kill)
        assert exported(library) == wanted
    assert len(set(killed)) == 3
    assert [file.path for file in report.unreadable] == ["broken.png"]


@in_processes
@pytest.mark.slow
def test_a_picture_that_crashes_its_decoder_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 30)
    (folder / "broken.png").unlink()
    crash = "import os; from mobius.dhash import _worker as w; f = w.hash_file\n" \
        "w.hash_file = lambda path, *a, **k: os._exit(139) if path.name == '0001.jpg' else f(path, *a, **k)\n"  # fmt: skip
    with Library(tmp_path / "index") as library:
        with monkeypatch.context() as patch:
            patch.setattr(_worker_process, "PROGRAM", crash + _worker_process.PROGRAM)
            report = library.scan(folder, threads=2)
        assert report.unreadable == (Unreadable("1/0001.jpg", "It brought down the process that read it."),)
        assert report.hashed == 29
        again = library.scan(folder, threads=2)
        assert (again.hashed, again.unreadable) == (1, ())


@pytest.mark.slow
@pytest.mark.parametrize("executable", [sys.executable, "/nowhere/python", "", None])
def test_where_no_process_can_be_had_threads_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], executable: str | None
) -> None:
    folder = make_folder(tmp_path / "library", 20)
    monkeypatch.setattr(_worker_process, "PROGRAM", "import a_module_that_is_not_there")
    monkeypatch.setattr(sys, "executable", executable)
    with Library(tmp_path / "index") as library:
        assert library.scan(folder, threads=2).hashed == 20
    assert capfd.readouterr().err == ""


@in_processes
@pytest.mark.slow
def test_processes_find_the_modules_that_the_scan_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_found_by_this_path.py").touch()
    monkeypatch.setattr(_worker_process, "PROGRAM", f"import only_found_by_this_path\n{_worker_process.PROGRAM}")
    with _hash_processes.HashingPool("fast", 10_000, threads=2, files=9) as hashers:
        assert not children_of(os.getpid())
        assert hashers.batch_size == 1
    monkeypatch.syspath_prepend(tmp_path)
    with _hash_processes.HashingPool("fast", 10_000, threads=2, files=9) as hashers:
        assert hashers.batch_size > 1


@in_processes
@pytest.mark.slow
def test_an_answer_that_was_not_heard_is_not_taken_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 100)
    ask, asked, unheard = _hash_processes._Process.hash, iter(range(1000)), []

    def deaf(process: _hash_processes._Process, *arguments: Any) -> object:
        if next(asked) == 3:
            monkeypatch.setattr(_worker_process, "receive_message", fail)
        return ask(process, *arguments)

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(_hash_processes._Process, "hash", deaf)
    with _hash_processes.HashingPool("fast", 1 << 20, threads=2, files=100) as hashers:
        for path in sorted(folder.glob("*/*.jpg")):
            try:
                (found,) = hashers.hash([str(path)])
            except MemoryError:
                unheard.append(path)
                continue
            assert isinstance(found, Fingerprint)
            assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(unheard) == 1


def test_a_file_that_there_is_no_memory_for_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "library", 10)
    (folder / "broken.png").unlink()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with Library(tmp_path / "index") as library:
        with monkeypatch.context() as patch:
            patch.setattr(_hash_processes, "hash_file", fail)
            reasons = {file.reason for file in library.scan(folder, threads=1).unreadable}
        assert reasons == {"There was not enough memory to read it."}
        assert library.scan(folder, threads=1).hashed == 10


@in_processes
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_scan_that_is_ended_leaves_no_process_behind(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    folder = make_folder(tmp_path / "library", 600)
    (folder / "broken.png").unlink()  # which would end with the same code
    fifo = tmp_path / "dots"
    os.mkfifo(fifo)
    command = [
        sys.executable,
        "-c",
        SLOW_SCAN,
        "dhash",
        "scan",
        folder,
        "--index",
        tmp_path / "i",
        "--threads",
        "2",
        fifo,
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        with fifo.open("rb", buffering=0) as dots:
            told = dots.read(1)
            while len(told) < 2:
                told += dots.read(1)
            children = children_of(process.pid)
            os.killpg(process.pid, number)  # as the terminal does it
            while more := dots.read(100):  # until the children have ended, too
                told += more
        said = process.communicate()[1]
    assert len(children) == 2
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: OUTCOMES["interrupted"].code}[number]
    assert "Traceback" not in said
    assert len(told) < 50, "none went on with what it had been given"
    until_none_is_left(children)
    with Library(tmp_path / "i") as library:
        assert library.scan(folder, threads=1).images == 600
