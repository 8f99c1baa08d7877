# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A file of secrets is read as python-dotenv reads it, and what cannot be used is refused by its name or line alone."""

from __future__ import annotations

from typing import Any

import pytest

from mobius.control.secrets_file import check_secrets, parse_secrets
from mobius.errors import MobiusError

FILE = """\
# of the shop
SHOP_TOKEN=plain#text

export SHOP_KEY='single $HOME "quotes"'
SHOP_PEM="-----BEGIN-----
second line
-----END-----"
SHOP_EMPTY=
"""


def test_values_are_those_of_the_file() -> None:
    assert parse_secrets(FILE, "shop.env") == {
        "SHOP_TOKEN": "plain#text",
        "SHOP_KEY": 'single $HOME "quotes"',
        "SHOP_PEM": "-----BEGIN-----\nsecond line\n-----END-----",
        "SHOP_EMPTY": "",
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("A=1\n\n\nHUNTER2\n", "shop.env, line 4 has a name without a value."),
        ("A=one\nhunter2/+==\n", "shop.env, line 2 has a name that does not match [A-Z_][A-Z0-9_]*."),
        ("A=1\nA=hunter2\n", "shop.env, line 2: A is set for the second time."),
        ("A=1\n\n=hunter2\n", "shop.env, line 3 is not of the form NAME=value."),
        ("A='hunter2\n", "shop.env, line 1 is not of the form NAME=value."),
    ],
)
def test_a_line_that_cannot_be_used_is_named_without_its_value(text: str, where: str) -> None:
    with pytest.raises(MobiusError) as refused:
        parse_secrets(text, "shop.env")
    assert refused.value.reason == f"{where} Nothing was changed."
    assert "hunter2" not in str(refused.value.as_dict()).lower()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"lower": "hunter2"}, "the name 'lower', which does not match"),
        ({"A\nB": "hunter2"}, "which does not match"),
        ({"PORT": "hunter2"}, "PORT, which the environment of the service has already"),
        ({"A": ["hunter2"]}, "A with a value that is no text, number or boolean"),
        ({"A": None}, "A with a value that is no text, number or boolean"),
        ({"A": "hunter2\x00"}, "A with a control character"),
        ({"A": "hunter2\r\n"}, "A with a control character"),
        ({"A": "hunter2\udcff"}, "A with a value that is not UTF-8"),
        ({"A": "hunter2" * 20_000}, "A with a value of more than 131071 bytes"),
    ],
)
def test_a_secret_that_no_instance_could_start_with_is_refused_without_its_value(
    values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(MobiusError) as refused:
        check_secrets({}, values, ["PORT"])
    assert problem in refused.value.reason
    assert "hunter2" not in str(refused.value.as_dict())


def test_what_a_value_may_have_is_accepted() -> None:
    assert (
        check_secrets({}, {"A": "tab\tand\nline break", "B_2": "", "_C": "x" * 131_068, "D": 4711}, [])["D"] == "4711"
    )


def test_a_value_of_the_inventory_wins_over_that_of_the_file() -> None:
    assert check_secrets({"A": "file", "B": "file"}, {"A": "inventory"}, []) == {"A": "inventory", "B": "file"}


def test_values_without_names_are_refused_without_showing_one() -> None:
    with pytest.raises(MobiusError) as refused:
        check_secrets({}, ["hunter2"], [])
    assert refused.value.reason == "host_secrets does not have values by name. Nothing was changed."
