# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""schemathesis against the service's OpenAPI document: no 5xx, and no undocumented answer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mobius.service.tokens import line_for, new_token

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
# Two of its checks are off: random bytes are never a picture, however valid the request is; and a form gets a result for
# each picture, so an invalid one is reported in an answer of 200.
CONFIGURATION = """\
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/hash"

[operations.checks]
negative_data_rejection.enabled = false
"""


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("examples,coverage,fuzzing,stateful", 15), pytest.param("fuzzing,stateful", 1500, marks=pytest.mark.soak)],
)
def test_no_request_gets_a_5xx_or_an_undocumented_answer(
    host: ServiceHost, tmp_path: Path, phases: str, examples: int
) -> None:
    token = new_token()
    (tmp_path / "tokens").write_text(f"{line_for('fuzz', token)}\n")
    instance = host.start(RELEASE, index=str(tmp_path / "index.sqlite"), tokens=str(tmp_path / "tokens"))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    seed = int(os.environ.get("MOBIUS_FUZZ_SEED", random.randrange(1 << 32)))
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{host.port}/openapi.json"),
            *("--phases", phases, "--max-examples", str(examples), "--seed", str(seed), "--no-color"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"MOBIUS_FUZZ_SEED={seed}\n{done.stdout}\n{done.stderr}"
    instance.wait_until(lambda health: health["status"] == "pass", "/health")
