"""What the history records of a module's result is something that the module says it returns."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mobius.control.history.recorder import RESULT_FIELDS

MODULES = Path(__file__).resolve().parents[2] / "plugins/modules"


@pytest.mark.parametrize("module", RESULT_FIELDS)
def test_a_recorded_field_is_one_that_the_module_returns(module: str) -> None:
    text = (MODULES / f"{module}.py").read_text(encoding="utf-8")
    returned = yaml.safe_load(text.split('RETURN = r"""')[1].split('"""')[0])
    assert set(RESULT_FIELDS[module]) <= set(returned)
