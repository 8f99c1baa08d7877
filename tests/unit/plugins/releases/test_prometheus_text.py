# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pages of metrics are read as Prometheus's own client for Python reads them."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.prometheus_text import UnreadableError, parse_page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.parser import text_string_to_metric_families

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Row = tuple[str, dict[str, str], float]


def read(page: str) -> list[Row]:
    return [(name, dict(labels), value) for name, labels, value in parse_page(page)]


def read_by_client(page: str) -> list[Row]:
    """By Prometheus's client, without the comments: it appends `_total` to the names of what a comment calls a counter."""
    series = "\n".join(line for line in page.split("\n") if not line.lstrip(" \t").startswith("#"))
    return [
        (sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families(series)
        for sample in family.samples
    ]


def comparable(rows: Iterable[Row]) -> list[Any]:
    return [(name, labels, "NaN" if math.isnan(value) else value) for name, labels, value in rows]


# The forms of which each is on a test page of prometheus_client, tests/test_parser.py
FORMS = {
    "a counter": "# TYPE a counter\n# HELP a help\na 1\n",
    "a summary with quantiles": '# TYPE a summary\na_count 1\na_sum 2\na{quantile="0.5"} 0.7\n',
    "a histogram": '# TYPE a histogram\na_bucket{le="1"} 0\na_bucket{le="+Inf"} 3\na_count 3\na_sum 2\n',
    "no last line feed": "a 1",
    "blank lines and other comments": "\n# TYPE a counter\n# FOO a\n#\n\n   \t\n  # indented\na 1\n",
    "words that are no name in a comment": "# 3565 12345/4436467 and more\n",
    "more blanks": "# TYPE  a  counter\na  1\n",
    "tabs": "#\tTYPE\ta\tcounter\na\t1\n",
    "a line that ends as on Windows": "a 1\r\nb 2\r\n",
    "braces in a value": 'a{foo="bar", bar="b{a}z"} 1\n',
    "infinity": 'a{foo="bar"} +Inf\na{foo="baz"} -Inf\na Inf\n',
    "not a number": "a NaN\n",
    "numbers": "a 1.\na .5\na -1e-3\na +2E5\na 007\n",
    "blanks around labels": 'a{ foo = "bar" } 1\na{\tfoo\t=\t"baz"\t}\t2\n',
    "blanks before the braces": 'a   {    foo   =  "buz"   }    3\na\t {  \t foo\t = "biz"\t  } \t 4\n',
    "no blank after the braces": 'a{foo="bez"}6\n',
    "a comma after the last label": 'a{foo="bar",} 1\na{foo="baz",  } 1\n',
    "a comma alone": "b{,} 2\nc{  ,} 3\nd{,  } 4\n",
    "a comma first": 'a{,foo="bar"} 1\n',
    "empty braces": "a{} 1\na { } 1\n",
    "an empty value": 'a{foo=""} 2\n',
    "escapes": 'a{foo="b\\"a\\nr"} 1\na{foo="b\\\\a\\z"} 2\na{foo="\\\\n",b="\\\\\\n",c="\\\\"} 3\n',
    "time stamps": 'a{foo="bar"} 1\t000\nb 2  1234567890\nb 88   1234566000   \nb 1 -5\n',
    "quoted names": '# TYPE "a.b" counter\n{"a.b"} 1\n{"a.b",foo="x"} 2\n{ "a.b" , "l.m" = "y" , } 3\n',
    "quoted names with everything": '{"my.counter{} # = \\" \\n", "awful. }}{{ # HELP EOF"="\\n yikes } \\" value"} 1\n',
    "a quoted label beside a plain name": 'a{"l.m"="x",n="y"} 1\n',
    "other line ends in a value": 'a{foo="\x0b\x0c\x1c\x85\u2028"} 1\n',
    "letters of other alphabets": 'a{foo="stra\u00dfe \u6771\u4eac"} 1\n',
}

REFUSED = {
    "two commas": 'a{foo="bar",, } 1\n',
    "a comma and another alone": "a{,,} 1\n",
    "no value": "a\n",
    "no value after labels": 'a{foo="bar"}\n',
    "no name": '{foo="bar"} 1\n',
    "no quotes": "a{foo=bar} 1\n",
    "no closing quote": 'a{foo="bar} 1\n',
    "no closing brace": 'a{foo="bar" 1\n',
    "no comma between labels": 'a{foo="bar" bar="baz"} 1\n',
    "text after a value's quote": 'a{foo="bar"x} 1\n',
    "a label twice": 'a{foo="bar",foo="baz"} 1\n',
    "a reserved label": 'a{__foo="bar"} 1\n',
    "a name that is quoted and plain": 'a{"b"} 1\n',
    "a name with a point": "a.b 1\n",
    "a name with a digit first": "1a 1\n",
    "a word for a value": "a one\n",
    "an underscore in a value": "a 1_000\n",
    "a hexadecimal value": "a 0x10\n",
    "a word for a time stamp": "a 1 now\n",
    "HTML": "<html><body>404</body></html>\n",
    "JSON": '{"json": true}\n',
}


@pytest.mark.parametrize("page", FORMS.values(), ids=FORMS)
def test_each_legal_form_is_read_as_by_prometheus_client(page: str) -> None:
    assert comparable(read(page)) == comparable(read_by_client(page))


@pytest.mark.parametrize("page", REFUSED.values(), ids=REFUSED)
def test_what_prometheus_client_refuses_is_refused_in_one_sentence(page: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        read_by_client(page)
    with pytest.raises(UnreadableError) as caught:
        read("a 1\n" + page)
    assert str(caught.value) == f"its metrics have line 2, {page.rstrip()!r}"


_NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)
_LABELS = st.lists(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("le", "quantile")),
    max_size=3,
    unique=True,
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = st.floats()


@st.composite
def families(draw: st.DrawFn) -> Metric:
    name, labels = draw(_NAMES), draw(_LABELS)
    made: Any
    match draw(st.sampled_from(["counter", "gauge", "summary", "histogram"])):
        case "counter":
            made = CounterMetricFamily(name, draw(_TEXTS), labels=labels)
            rows = st.tuples(_VALUES)
        case "gauge":
            made = GaugeMetricFamily(name, draw(_TEXTS), labels=labels)
            rows = st.tuples(_VALUES)
        case "summary":
            made = SummaryMetricFamily(name, draw(_TEXTS), labels=labels)
            rows = st.tuples(_VALUES, _VALUES)
        case _:
            made = HistogramMetricFamily(name, draw(_TEXTS), labels=labels)
            rows = st.tuples(st.just([("0.1", 1.0), ("+Inf", 2.0)]), _VALUES)
    for row in draw(st.lists(rows, max_size=3)):
        made.add_metric([draw(_TEXTS) for _ in labels], *row)
    return made


@st.composite
def pages(draw: st.DrawFn) -> str:
    chosen = draw(st.lists(families(), max_size=3))

    class Collector:
        def collect(self) -> list[Metric]:
            return chosen

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry).decode()


@pytest.mark.slow
@QUICK
@given(pages())
def test_whatever_prometheus_client_writes_is_read_as_it_reads_it(page: str) -> None:
    assert comparable(read(page)) == comparable(read_by_client(page))


@pytest.mark.slow
@QUICK
@given(pages(), st.integers(0, 10_000), st.text('a1_:{}=", \t#\\n\n.+-eN', max_size=4), st.integers(0, 3))
def test_what_is_read_of_a_damaged_page_is_what_prometheus_client_reads(page: str, at: int, new: str, cut: int) -> None:
    at %= len(page) + 1
    damaged = page[:at] + new + page[at + cut :]
    try:
        rows = read(damaged)
    except UnreadableError:
        return
    assert comparable(rows) == comparable(read_by_client(damaged))


@pytest.mark.parametrize(
    "line",
    ["a" * 100_000, 'a{b="' + "\\" * 99_999, "{" * 100_000, "a{" + "," * 100_000, 'a{b="' + '\\"' * 50_000,
     "a " + "9" * 100_000 + "x", "a" + " " * 100_000 + "x", 'a{b="c"' + " " * 100_000],
    ids=["name", "backslashes", "braces", "commas", "quotes", "digits", "blanks", "blanks in braces"],
)  # fmt: skip
def test_a_hostile_line_takes_little_time_and_memory(line: str) -> None:
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(UnreadableError) as caught:
        parse_page(line)
    took, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(caught.value)) < 400
    assert took < 5, took  # it takes about 0.02 s; a quadratic parser takes minutes
    assert peak < 20_000_000, peak
