# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""docs/your-service.md does what it says: its files are written and its commands run, in the order of the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mobius.control.service_file.keys import KEYS
from tools.service_file_page import page as keys_page

CHECKOUT = Path(__file__).resolve().parents[3]
PAGE = (CHECKOUT / "docs/your-service.md").read_text(encoding="utf-8")
# Go is not installed where the tests run: a server in C stands in, linked statically, too
STATIC_SERVER = r"""
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    char *colon = strrchr(words[1], ':'), request[4096];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    *colon = 0;
    address.sin_addr.s_addr = inet_addr(words[1]);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    signal(SIGPIPE, SIG_IGN);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 128)) return 1;
    for (;;) {
        int client = accept(listener, 0, 0);
        if (read(client, request, sizeof request) > 0) {
            char *answer = strncmp(request, "GET /healthz ", 13) ? "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                                                                 : "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            write(client, answer, strlen(answer));
        }
        close(client);
    }
}
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: its files by name, and the commands that are run, or need a lab."""

    title: str
    files: dict[str, str]
    commands: tuple[str, ...]
    lab: tuple[str, ...]


def sections() -> dict[str, Section]:
    found = {}
    for part in re.split(r"(?m)^## ", PAGE)[1:]:
        title = part.splitlines()[0]
        files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)^```", part, re.MULTILINE | re.DOTALL))
        blocks = re.findall(r"<!-- (run|lab) -->\n```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        commands = {kind: tuple(text.strip().splitlines()) for kind, text in blocks}
        found[title] = Section(title, files, commands.get("run", ()), commands.get("lab", ()))
    return found


SECTIONS = sections()
EXAMPLES = [section.title for section in SECTIONS.values() if section.commands]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The reader's folder, with the command `mobius` in PATH."""
    program = tmp_path / "bin/mobius"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m mobius.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "shop").mkdir()
    shell(tmp_path / "shop", "mobius init shop")
    return tmp_path / "shop"


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    command = ["sh", "-c", line]
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder.parent / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


def write_files(folder: Path, section: Section) -> None:
    for name, text in section.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run_line(folder: Path, line: str) -> str:
    if " go build " in line and shutil.which("go") is None:
        (folder / "app").mkdir()
        source = folder.parent / "server.c"
        source.write_text(STATIC_SERVER)
        line = f"gcc -static -w -o app/shop {source}"
    return shell(folder, line).stdout


def test_the_page_begins_with_what_the_examples_begin_with() -> None:
    assert "mobius init shop" in PAGE
    assert EXAMPLES == ["With gunicorn", "With node", "With a static binary", "With a worker"]
    assert SECTIONS["The first release"].lab[0] == "mobius lab up --hosts 1"


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_packed_and_keeps_what_a_release_needs(shop: Path, title: str) -> None:
    section = SECTIONS[title]
    write_files(shop, section)
    printed = "".join(run_line(shop, line) for line in section.commands)
    assert re.search(r"shop: \d+ kept, 0 broken, ", printed), printed
    assert (shop / "dist/shop-1.0.0.tar.gz").exists()


@pytest.mark.lab
@pytest.mark.soak
@pytest.mark.parametrize("title", ["With gunicorn", "With a static binary", "With a worker"])
def test_an_example_is_released_to_a_lab_host(shop: Path, title: str) -> None:
    """Not node, which is no package that the lab's hosts can install."""
    section = SECTIONS[title]
    write_files(shop, section)
    for line in section.commands:
        run_line(shop, line)
    *commands, last = SECTIONS["The first release"].lab
    try:
        printed = "".join(run_line(shop, line) for line in commands)
    finally:
        run_line(shop, last)
    assert "1.0.0-" in printed


def test_the_page_of_the_keys_is_made_from_the_table() -> None:
    assert (CHECKOUT / "docs/mobius-yml.md").read_text(encoding="utf-8") == keys_page()
    for key in KEYS:
        row = next(line for line in keys_page().splitlines() if line.startswith(f"| `{key.name}` |"))
        assert row.endswith("` |") or key.name in ("front", "backup"), f"{key.name} names no variable"
