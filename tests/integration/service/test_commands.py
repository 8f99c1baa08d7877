# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The commands `mobius dhash serve` and `mobius dhash token`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.service.samples import PICTURE, SHA256, bearer

ROOT = Path(__file__).parents[3]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOBIUS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "mobius.cli", "dhash", *words]


@contextlib.contextmanager
def serving(folder: Path, *words: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = subprocess.Popen(
        command("serve", "--port", "0", *words), cwd=folder, env=environment(**more), text=True, stdout=-1, stderr=-1
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, process.communicate(timeout=10)
        with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def test_one_command_serves_a_folder_and_prints_the_address(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, client):
        assert client.get("/").headers["content-type"].startswith("text/html")
        assert client.post("/v1/images", content=PICTURE).status_code == 201, "every local user may write"
        foreign = client.post("/v1/images", content=PICTURE, headers={"Host": "rebound.example"})
        assert foreign.status_code == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    with serving(tmp_path, "--host", "::1") as (_, client):
        assert str(client.base_url).startswith("http://[::1]:")
        assert client.get(f"/v1/images/{SHA256}").status_code == 200, "the index was kept"


def test_on_other_addresses_writing_needs_a_token_from_the_command(tmp_path: Path) -> None:
    created = subprocess.run(command("token", "ada"), env=environment(), capture_output=True, text=True, check=True)
    tokens = tmp_path / "tokens"
    tokens.write_text(created.stderr)
    assert created.stdout.strip() not in created.stderr
    with serving(tmp_path, "--host", "0.0.0.0", MOBIUS_TOKENS=str(tokens)) as (_, client):
        assert client.post("/v1/images", content=PICTURE).status_code == 401
        assert client.post("/v1/images", content=PICTURE, headers=bearer(created.stdout.strip())).status_code == 201


@pytest.mark.parametrize(
    ("words", "more", "code", "sentence"),
    [
        (("serve", "--index", "nowhere/x.sqlite"), {}, 1, "There is no folder"),
        (("serve",), {"MOBIUS_COLOUR": "red"}, 1, "MOBIUS_COLOUR is not a setting of the service."),
        (("serve", "--port", "70000"), {}, 1, "70000 is not in the range"),
        (("token", "a b"), {}, 1, "A token's name is"),
    ],
)
def test_an_error_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], more: dict[str, str], code: int, sentence: str
) -> None:
    done = subprocess.run(
        command(*words), cwd=tmp_path, env=environment(**more), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            command("serve", "--port", port),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert f"Listening on 127.0.0.1:{port} failed: Address already in use." in done.stderr
