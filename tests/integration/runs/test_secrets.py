# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets are planted wherever a run can get them from, at -vvv; afterwards everything that the run left is searched."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mobius.cli.render.progress import Lines
from mobius.control.run.project import find_project
from mobius.control.run.runner import RunRequest, run_playbook
from tests.integration.runs.conftest import outcome

CHECKOUT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
PLACES = (
    "vault",
    "environment",
    "extra",
    "file",
    "hostvar",
    "loop",
    "failure",
    "taskname",
    "rescued",
    "service",
    "servicefile",
)
SECRETS = {location: f"s3cr3t-{location}-7f1d0a" for location in PLACES}

PLAYBOOK = """
- hosts: mobius
  tasks:
    - mobius.dhash.run:
    - name: Use all of them
      # never by `environment`: Ansible puts that on a command line, where every user of the host can read it
      ansible.builtin.command:
        cmd: /usr/bin/wc -c
        stdin: "{{ from_vault }}{{ from_extra }}{{ from_file }}{{ from_host }}{{ lookup('env', 'MOBIUS_PLANTED') }}"
      no_log: true
    - name: Write the secrets of a service
      mobius.dhash.secrets:
        path: "{{ secrets_path }}"
        file: "{{ playbook_dir }}/service.env"
        values: {FROM_VAULT: "{{ from_vault_too }}"}
    - name: "Deploy with {{ in_name }}"
      mobius.dhash.bundle_info: {path: "/nowhere/{{ in_name }}"}
      # an ignored failure is shown in a way of its own; the test counts both of them
      ignore_errors: true
    - name: Loop
      mobius.dhash.failure: {outcome: disk_full, reason: "no space for {{ item }}"}
      loop: ["{{ in_loop }}"]
      no_log: true
      ignore_errors: true # counted, too
    - block:
        - name: Fail and be rescued
          ansible.builtin.fail: {msg: "could not log in with {{ in_rescue }}"}
      rescue:
        - name: Decide
          ansible.builtin.set_fact: {__verdict: {verdict: error, reason: "{{ ansible_failed_result.msg }}"}}
        - name: Decide for all
          mobius.dhash.decide: {result: __verdict}
    - name: "Fail with {{ in_failure }}"
      mobius.dhash.failure: {outcome: task_failed, reason: "could not log in with {{ in_failure }}"}
"""


@pytest.fixture
def folder_of_run(inventory: Path, tmp_path: Path) -> tuple[Path, Path, set[Path], list[str]]:
    """A folder with secrets of every kind: it, the playbook, the files they were planted in, and ansible's arguments."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "password").write_text("vault-password")
    playbook = tmp_path / "secrets.yml"
    playbook.write_text(PLAYBOOK)
    lines = inventory.read_text().replace("here: {hosts: {here1: , here2: , here3: }}", "mobius: {hosts: {here1: }}")
    written = tmp_path / "written.env"
    inventory.write_text(f"{lines}    from_host: {SECRETS['hostvar']}\n    secrets_path: {written}\n")
    values = {"in_name": "taskname", "in_loop": "loop", "in_rescue": "rescued", "in_failure": "failure"}
    extra = {"from_extra": "extra", "from_file": "file", **values}
    (tmp_path / "extra.json").write_text(json.dumps({name: SECRETS[location] for name, location in extra.items()}))
    (tmp_path / "group_vars").mkdir()
    encrypt = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(tmp_path / "password")]
    for name, text in {
        "group_vars/mobius.yml": f"from_vault: {SECRETS['vault']}\nfrom_vault_too: {SECRETS['service']}\n",
        "service.env": f"FROM_FILE={SECRETS['servicefile']}\n",
    }.items():
        subprocess.run([*encrypt, "--output", str(tmp_path / name)], input=text, text=True, check=True)
    return tmp_path, playbook, {inventory, tmp_path / "extra.json", written}, ["-e", f"@{tmp_path / 'extra.json'}"]


def in_base64(data: bytes, offset: int) -> bytes:
    """What Base64 makes of the data where it begins after `offset` bytes of a group of three, without what its neighbours decide."""
    encoded = base64.b64encode(bytes(offset) + data)
    return encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]


def leaked(folder: Path, *, besides: set[Path] = frozenset()) -> list[tuple[str, str]]:
    """Every file below the folder that holds a planted secret, as it is, or in base64, or as a plain SHA-256."""
    results = []
    for path in folder.rglob("*"):
        if not path.is_file() or path in besides:
            continue
        content = path.read_bytes()
        for location, secret in SECRETS.items():
            forms = (
                secret.encode(),
                *(in_base64(secret.encode(), offset) for offset in range(3)),
                hashlib.sha256(secret.encode()).hexdigest().encode(),
            )
            if any(form in content for form in forms):
                results.append((location, str(path.relative_to(folder))))
    return results


def test_no_planted_secret_is_left_anywhere_but_where_it_was_planted(inventory, folder_of_run, monkeypatch):
    root, playbook, planted, arguments = folder_of_run
    monkeypatch.setenv("MOBIUS_PLANTED", SECRETS["environment"])
    monkeypatch.setenv("HUSH", SECRETS["environment"])
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(root / "password"))
    monkeypatch.setenv("TMPDIR", str(root / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    observed: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for location in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = location.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                observed.update(name for name, secret in SECRETS.items() if secret in line)

    for via in ("mobius", "ansible-playbook"):
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        command = [str(BIN / "ansible-playbook"), "-i", str(inventory), str(playbook), "-vvv", *arguments]
        watcher = threading.Thread(target=watch)
        if via == "mobius":
            watcher.start()
            summary = run_playbook(
                RunRequest(
                    playbook=playbook,
                    inventory=str(inventory),
                    project=find_project(),
                    verbosity=3,
                    variables={"from_extra": SECRETS["extra"]},
                    extra=(f"@{root / 'extra.json'}",),
                    timeout=120,
                ),
                Lines(lambda line: None),
            )
            stop.set()
            watcher.join()
            assert summary.ending.outcome == "task_failed", summary
        else:
            done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
            assert ", task_failed)" in done.stdout, done.stdout + done.stderr
            # Ansible shows the arguments of every module at this verbosity
            (root / "shown").write_text(
                "".join(done.stdout.partition("TASK [Write the secrets of a service]")[1:]).partition(
                    "TASK [Deploy with"
                )[0]
            )
            assert "FROM_VAULT" in (root / "shown").read_text()
            assert re.search(r"here1 .*failed=1 .*rescued=1 +ignored=2", done.stdout), "every plant was met"
    assert observed == set(), "in a list of processes"
    assert leaked(root, besides=planted) == []
    assert (root / "written.env").read_text() == (
        f'FROM_FILE="{SECRETS["servicefile"]}"\nFROM_VAULT="{SECRETS["service"]}"\n'
    )
    records = (inventory.parent / "history/history.jsonl").read_text()
    assert '"event":"intent"' in records
    assert "Fail with {{ in_failure }}" in records
    runs = [json.loads(line)["run"] for line in records.splitlines() if '"event":"intent"' in line]
    printed = ""
    for words in (
        ["list"],
        ["export", "--all", "--format", "json"],
        ["export", "--all"],
        *(["show", name] for name in runs),
    ):
        # a process of its own: Ansible reads where the vault's password is once, when it is imported
        command = [str(BIN / "mobius"), "history", *words, "-i", str(inventory)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed += done.stdout + done.stderr
    assert not [location for location, secret in SECRETS.items() if secret in printed]


def test_the_search_finds_what_is_planted(tmp_path):
    (tmp_path / "plain").write_text(f"x{SECRETS['vault']}y")
    (tmp_path / "encoded").write_bytes(base64.b64encode(SECRETS["loop"].encode()))
    (tmp_path / "within").write_bytes(base64.b64encode(f'{{"A": "{SECRETS["service"]}"}}'.encode()))
    assert sorted(leaked(tmp_path)) == [("loop", "encoded"), ("service", "within"), ("vault", "plain")]


@pytest.mark.parametrize(
    ("content", "values", "reason"),
    [
        (None, {}, "The file of secrets {file} cannot be read."),
        ("encrypted", {}, "The file of secrets {file} cannot be decrypted."),
        (b"TOKEN=hunter2\xff\n", {}, "have TOKEN with a value that is not UTF-8."),
        (b"HUNTER2\n", {}, "{file}, line 1 has a name without a value."),
        (b"", {"TOKEN": {"of": "hunter2"}}, "have TOKEN with a value that is no text, number or boolean."),
    ],
)
def test_secrets_that_cannot_be_used_are_refused_by_their_file_or_name_and_change_nothing(
    inventory: Path, tmp_path: Path, content: bytes | str | None, values: dict[str, Any], reason: str
) -> None:
    # a path with the word vault is no reason to call a missing file encrypted
    file = tmp_path / "vault/shop.env"
    file.parent.mkdir()
    if content == "encrypted":
        (tmp_path / "password").write_text("vault-password")
        encrypt = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(tmp_path / "password")]
        subprocess.run([*encrypt, "--output", str(file)], input="TOKEN=hunter2\n", text=True, check=True)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    arguments = {"path": str(tmp_path / "written.env"), "file": str(file), "values": values}
    play = tmp_path / "secrets.yml"
    play.write_text(
        f"- hosts: here1\n  tasks:\n    - mobius.dhash.run:\n    - mobius.dhash.secrets: {json.dumps(arguments)}\n"
    )
    command = [str(BIN / "ansible-playbook"), "-i", str(inventory), str(play)]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    shown = " ".join(done.stdout.split())
    assert outcome(done) == "invalid_input", done.stdout
    assert f"{reason.format(file=file)} Nothing was changed." in shown
    assert "Traceback" not in done.stdout + done.stderr
    assert "hunter2" not in (done.stdout + done.stderr).lower()
    assert not (tmp_path / "written.env").exists()
