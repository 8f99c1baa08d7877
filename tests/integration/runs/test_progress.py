# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person sees of a run while it goes on: at a real terminal, without one, and when it is killed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PLAYBOOK = """
- name: Roll out
  hosts: here1:here2
  tasks:
    - ansible.builtin.import_tasks: tasks/lock.yml
    - name: Take long
      ansible.builtin.command: {marker}
"""
LOCK = """
- name: Take it
  ansible.builtin.command: "true"
- name: Fail and be rescued
  block:
    - name: Break
      mobius.dhash.failure: {outcome: disk_full, reason: "No [red]space[/red]."}
      when: inventory_hostname == 'here2'
  rescue:
    - name: Go on
      ansible.builtin.set_fact: {well: true}
"""
# a view is drawn by going up, erasing lines and colours; a hidden cursor or another screen would outlive a killed process
HARMLESS = re.compile(r"\x1b\[\d*(;\d+)*[mAKG]|\r")
SIZE = struct.pack("HHHH", 30, 100, 0, 0)


class Terminal:
    """A command whose standard input and standard error are a terminal, and whose standard output is a pipe."""

    def __init__(self, command: list[str], **options: object) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, SIZE)
        self.before = termios.tcgetattr(self._slave)
        self.seen = ""
        self.process = subprocess.Popen(
            # whoever runs the tests in the background ignores SIGINT, and children inherit that
            ["env", "--default-signal=INT,TERM", *command],
            stdin=self._slave,
            stdout=subprocess.PIPE,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **options,
        )

    @property
    def text(self) -> str:
        """What was written, without control sequences."""
        return HARMLESS.sub("", self.seen)

    def read_until(self, done: Callable[[], bool], why: str) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, f"{why}: {self.text}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")

    def read_to_end(self) -> str:
        self.read_until(lambda: self.process.poll() is not None, "it did not end")
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def is_sane(self) -> bool:
        return termios.tcgetattr(self._slave) == self.before and "\x1b" not in self.text

    def hang_up(self) -> None:
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self._master >= 0:
            self.hang_up()


@pytest.fixture
def at_terminal(checkout) -> Callable[..., object]:
    @contextmanager
    def begin(marker: str, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[Terminal]:
        (checkout.folder / "playbooks/tasks").mkdir()
        (checkout.folder / "playbooks/tasks/lock.yml").write_text(LOCK)
        checkout.write("deploy.yml", PLAYBOOK.format(marker=marker))
        environment = {**checkout.environment, "TERM": "xterm-256color"}
        command = [*before, *checkout.command("deploy", "-i", str(checkout.inventory), *arguments)]
        terminal = Terminal(command, cwd=checkout.folder, env=environment)
        try:
            yield terminal
        finally:
            terminal.close()

    return begin


def test_a_terminal_shows_phases_and_hosts_and_keeps_what_must_be_read(at_terminal):
    with at_terminal("sleep 1.5") as terminal:
        out = terminal.read_to_end()
        assert terminal.process.returncode == 0, terminal.text
        assert "lock › preflight › backup › stage › standby" in terminal.text
        assert re.search(r"here1 +working", terminal.text), "while it works"
        assert re.search(r"here1 +changed +2 changed", terminal.text), "the last view stays"
        assert re.search(r"\d\d:\d\d:\d\dZ  failed       here2  No \[red\]space\[/red\]\.", terminal.text)
        assert "task  " not in terminal.text
        assert terminal.is_sane()
        assert out.splitlines()[0] == "✓ deploy done"
        assert out.splitlines()[1].split() == ["changes", "2", "changed", "on", "each", "of", "2", "hosts"]
        assert out.splitlines()[-1].endswith(", exit 0")


def test_a_view_goes_away_before_the_answer(checkout):
    checkout.write("status.yml", "- hosts: here1\n  tasks:\n    - ansible.builtin.command: sleep 0.5\n")
    environment = {**checkout.environment, "TERM": "xterm-256color"}
    command = checkout.command("status", "-i", str(checkout.inventory))
    terminal = Terminal(command, cwd=checkout.folder, env=environment)
    try:
        out = terminal.read_to_end()
        assert out.splitlines()[-1].endswith(", exit 0")
        assert "here1" in terminal.text
        last_lines = terminal.seen[terminal.seen.rindex("here1") :]
        assert last_lines.count("\x1b[2K") >= 3, "the lines of the view are erased"
    finally:
        terminal.close()


def test_with_v_a_terminal_gets_ansibles_output(at_terminal):
    with at_terminal("sleep 0.1", "-v") as terminal:
        terminal.read_to_end()
        assert "TASK [Take long]" in terminal.text
        assert "›" not in terminal.text


def kill_all(*markers: str) -> None:
    """What a killed run leaves behind: nobody was there to end it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if any(marker in words for marker in markers):
                os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.parametrize("how", ["ctrl-c", "SIGKILL"])
def test_a_terminal_is_sane_after_a_run_that_was_stopped(at_terminal, checkout, processes_with, how):
    marker = f"sleep 4242.{os.getpid()}{len(how)}"
    with at_terminal(marker) as terminal:
        terminal.read_until(lambda: len(processes_with(marker)) > 1, "the hosts never began")
        if how == "ctrl-c":
            terminal.press(b"\x03")
        else:
            terminal.process.kill()
        terminal.read_to_end()
        assert terminal.is_sane()
        if how == "SIGKILL":
            kill_all(marker, str(checkout.inventory))
            return
        assert terminal.process.returncode == 2
        assert "Ctrl-C (SIGINT) stopped the run." in " ".join(terminal.text.split())
        assert processes_with(marker) == []


def test_a_run_goes_on_when_its_terminal_goes_away(at_terminal):
    """Its process ignores the hang-up, as one under `setsid` or `disown` does."""
    marker = f"sleep 3.{os.getpid()}"
    refusal = '    - mobius.dhash.failure: {outcome: instance_not_ready, reason: "Not yet."}\n'
    with at_terminal(marker + "\n" + refusal, "--format", "json", before=("env", "--ignore-signal=HUP")) as terminal:
        terminal.read_until(lambda: "Take long" in terminal.text, "it never began")
        terminal.hang_up()
        out, _ = terminal.process.communicate(timeout=60)
        assert "lock › preflight" in terminal.text, "a person sees the view, programs get nothing but the result"
        assert json.loads(out)["outcome"] == "instance_not_ready", "it was still heard what happened"
        assert terminal.process.returncode == 4


def test_without_a_terminal_there_are_plain_lines_with_their_time(checkout):
    (checkout.folder / "playbooks/tasks").mkdir()
    (checkout.folder / "playbooks/tasks/lock.yml").write_text(LOCK)
    checkout.write("deploy.yml", PLAYBOOK.format(marker="/bin/true"))
    done = checkout.mobius("deploy", "-i", str(checkout.inventory))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    messages = [re.sub(r"^\d\d:\d\d:\d\dZ  ", "", line) for line in done.stderr.splitlines()]
    # which of two hosts is the first is not said
    assert [re.sub("here[12]", "here", line) for line in messages] == [
        "play         Roll out",
        "phase        lock",
        "task         Take it",
        "changed      here",
        "changed      here",
        "task         Break",
        "failed       here  No [red]space[/red].",
        "task         Go on",
        "task         Take long",
        "changed      here",
        "changed      here",
    ]
