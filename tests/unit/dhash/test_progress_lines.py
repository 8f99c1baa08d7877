"""Progress where there is no terminal."""

from __future__ import annotations

from mobius.cli.render.dhash import PROGRESS_LINE_SECONDS, ProgressLines


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_after(*steps: tuple[float, int, int]) -> list[str]:
    """What is written when, after so many seconds, so many of so many files are done."""
    clock, lines = Clock(), list[str]()
    progress = ProgressLines("files", lines.append, clock)
    for seconds, done, total in steps:
        clock.now += seconds
        progress.show(done, total)
    return lines


def test_a_line_says_how_many_are_done_and_the_time_left() -> None:
    assert lines_after((1, 1, 400), (9, 50, 400)) == ["files: 50 of 400, 70 s left"]
    assert lines_after((1, 1, 40_000), (9, 50, 40_000)) == ["files: 50 of 40000, 133 min left"]


def test_lines_have_an_interval_and_short_work_has_none() -> None:
    assert lines_after((1, 1, 3), (1, 2, 3), (1, 3, 3)) == []
    steps = [(PROGRESS_LINE_SECONDS / 4, done, 100) for done in range(1, 17)]
    assert len(lines_after(*steps)) == 4


def test_what_was_done_before_took_no_time() -> None:
    assert lines_after((1, 901, 1000), (19, 920, 1000)) == ["files: 920 of 1000, 80 s left"]
