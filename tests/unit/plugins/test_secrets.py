# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file of secrets gives systemd each value as it is, and its diff has no value."""

from __future__ import annotations

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import secrets
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t"), max_size=40)


@pytest.mark.slow
@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_was_written_is_read(values: dict[str, str]) -> None:
    assert secrets.read_values(secrets.environment_file(values)) == values


def test_the_text_is_the_one_that_systemd_reads() -> None:
    text = secrets.environment_file({"B": "", "A": 'say "cheese" `id` $HOME \\ %h\nExecStart=/bin/sh'})
    assert text == 'A="say \\"cheese\\" \\`id\\` \\$HOME \\\\ %h\nExecStart=/bin/sh"\nB=""\n'


def test_a_difference_has_names_only() -> None:
    before, after = {"A": "one", "B": "two", "C": "three"}, {"A": "one", "B": "2", "D": "four"}
    assert secrets.describe_change(before, after) == {
        "before": {"A": "set", "B": "set", "C": "set"},
        "after": {"A": "set", "B": "set to another value", "D": "set"},
    }
