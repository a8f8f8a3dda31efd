"""Durations, times, sizes and texts as they are read and shown."""

import pytest

from custody.cli.invocation import printable
from custody.cli.lines import begun, cells, cut, folded
from custody.cli.options import seconds_of
from custody.cli.render import (
    Column,
    at_least,
    cost,
    duration,
    fit,
    flexible,
    number,
    optional,
    percent,
    size,
    summary,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1.0), ("1.5", 1.5), ("500ms", 0.5), ("90s", 90.0), ("2m", 120.0),
        ("1h", 3600.0), ("7d", 604800.0),
        ("250us", 0.00025), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("1x", None), ("inf", None),
        ("nan", None), ("ms", None), ("1 m", 60.0), ("1e400", None),
    ],
)  # fmt: skip
def test_durations_are_read(text, expected):
    assert seconds_of(text) == expected


@pytest.mark.parametrize(
    ("us", "expected"),
    [
        (None, None), (0, "0 µs"), (850, "850 µs"), (1_000, "1 ms"), (12_345, "12.3 ms"), (999_600, "1 s"),
        (1_250_000, "1.25 s"),
        (59_960_000, "1 min 0 s"), (61_000_000, "1 min 1 s"),
        (3_600_000_000, "1 h 0 min"), (9_000_000_000, "2 h 30 min"),
    ],
)  # fmt: skip
def test_durations_are_shown(us, expected):
    assert duration(us) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, None),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1_050_000, "1 MiB"),
        (5 * 1024**3, "5 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_sizes_are_shown(count, expected):
    assert size(count) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain – ✓ 漢字", "plain – ✓ 漢字"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("line\nnext\ttab", "line\nnext\ttab"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_are_escaped(text, expected):
    assert printable(text) == expected


def test_a_command_is_summed_up_as_a_shell_would_take_it():
    assert summary("exec", {"argv": ["sh", "-c", "echo a b"]}) == "sh -c 'echo a b'"
    assert summary("shell", {"command": "make"}) == "make"
    assert summary("other", {"n": 1}) == '{"n":1}'
    assert summary("other", {}) == ""
    assert summary("exec", {"argv": "not a list"}) == '{"argv":"not a list"}'


COLUMNS = (Column("id"), optional("run"), flexible("what"), flexible("why"), number("took"))


@pytest.mark.parametrize(
    ("natural", "total", "expected"),
    [
        ([8, 8, 10, 10, 6], 100, [8, 8, 10, 10, 6]),  # all fits
        ([8, 8, 90, 10, 6], 80, [8, 8, 40, 10, 6]),  # the one that needs more gives
        ([8, 8, 90, 90, 6], 80, [8, 8, 25, 25, 6]),  # both do
        ([8, 8, 90, 90, 6], 60, [8, 0, 20, 20, 6]),  # an optional column goes before a flexible one is lost
        ([8, 8, 90, 90, 6], 20, [8, 0, 16, 16, 6]),  # lines wrap in the end
        ([8, 8, 5, 90, 6], 44, [8, 0, 5, 19, 6]),
    ],
)
def test_columns_share_what_room_there_is(natural, total, expected):
    assert fit(COLUMNS, natural, total) == expected


@pytest.mark.parametrize(
    ("nano_usd", "expected"),
    [
        (None, None), (0, "$0"), (1, "$0.000000001"), (32_500, "$0.000032"), (999_999, "$0.001"),
        (12_300_000, "$0.0123"), (999_940_000, "$0.9999"), (999_960_000, "$1.00"), (1_234_500_000, "$1.23"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)  # fmt: skip
def test_costs_are_shown_with_the_digits_that_say_something(nano_usd, expected):
    assert cost(nano_usd) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(None, None), (0.0, "0 %"), (1.0, "100 %"), (0.99999, "99.9 %"), (2 / 3, "66.6 %"), (0.29, "29 %")],
)
def test_only_all_of_them_are_a_hundred_percent(rate, expected):
    assert percent(rate) == expected


def test_a_sum_with_unknown_parts_is_at_least_what_is_known_and_unknown_stays_so():
    assert at_least("12", True) == "≥ 12"
    assert at_least("12", False) == "12"
    assert at_least(None, True) is None


def test_a_text_that_is_cut_says_by_how_much_and_fits():
    assert cut("short", 0, 10) == "short"
    assert cut("short", 7, None) == "short … (7 more characters)"
    line = cut("x" * 100, 50, 40)
    assert len(line) <= 40
    kept = line.count("x")
    assert line.endswith(f" … ({150 - kept} more characters)")


def test_a_text_is_folded_between_words_into_so_many_lines():
    lines = folded("one two three\nfour five six seven", 0, 10, 9)
    assert lines == ["one two", "three four", "five six", "seven"]
    few = folded("word " * 40, 0, 40, 2)
    assert len(few) == 2
    assert few[-1].endswith("more characters)")
    assert all(cells(line) <= 40 for line in few)
    assert folded("a\nb" * 9, 0, None, 1) == [" ".join(["a", *["ba"] * 8, "b"])]


def test_wide_characters_take_two_columns():
    assert cells("漢字ab") == 6
    assert begun("漢字漢字", 0, 6) == "漢字…"
    assert begun("漢字", 0, 4) == "漢字"
    assert begun("漢字漢字", 0, None) == "漢字漢字"
