"""What is cut leaves no half of what stood across the cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.cuts import ACROSS_MAX, KEY_MAX, beginning, beginning_of_stream, end_of_stream, ending

TOKEN = "ghp_" + "".join("abcdefghijklmnopqrstuvwxyz0123456789"[i * 7 % 36] for i in range(36))
KEY_LINES = "\n".join(f"{number:02}" + "MIIEpAIBAAKCAQEA" * 3 for number in range(25))
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_LINES}\n-----END RSA PRIVATE KEY-----"
PROSE = "The quick brown fox jumps over the lazy dog. "
LINES = PROSE + "\n"
HALF = 5
"""So many characters of a secret in a row are one half too many."""


def halves(secret: str, kept: str) -> list[str]:
    """Pieces of the secret in what is kept, unless it is there whole."""
    kept = kept.replace(secret, "")
    pieces = [secret[at : at + HALF] for at in range(len(secret) - HALF + 1)]
    return [piece for piece in pieces if piece in kept and piece not in PROSE]


@pytest.mark.parametrize("as_bytes", [False, True], ids=["text", "bytes"])
@pytest.mark.parametrize("filler", [PROSE, LINES], ids=["one line", "lines"])
def test_no_half_of_a_token_is_left_wherever_it_stands_around_the_cut(filler: str, as_bytes: bool):
    most = 9_000
    for inside in range(-2, len(TOKEN) + 3):
        before = (filler * 300)[: most - inside - 1] + " "
        text = before + TOKEN + " " + filler * 300
        turned = filler * 300 + " " + TOKEN + " " + (filler * 300)[: most - inside - 1]

        def cut(function, whole: str, *arguments: int) -> str:
            if not as_bytes:
                return function(whole, *arguments)
            return function(whole.encode(), *arguments).decode()

        for kept in (
            cut(beginning, text, most),
            cut(ending, turned, most),
            cut(beginning_of_stream, text[:most]),
            cut(end_of_stream, turned[-most:]),
        ):
            assert halves(TOKEN, kept) == []
            assert most - 2 * ACROSS_MAX <= len(kept) <= most


def test_no_line_of_a_private_key_is_left_wherever_it_is_cut():
    """It has lines of its own, none of which looks like a secret alone."""
    for inside in range(1, len(KEY), 7):
        head = LINES * 500 + KEY[:inside]
        tail = KEY[-inside:] + "\n" + LINES * 500
        for kept in (
            beginning_of_stream(head),
            end_of_stream(tail),
            beginning(head + KEY[inside:] + LINES, len(head)),
            ending(LINES + KEY[:-inside] + tail, len(tail)),
        ):
            assert "MIIE" not in kept, inside
            assert len(kept) > len(LINES) * 500 - 2 * ACROSS_MAX - KEY_MAX


def test_a_whole_private_key_before_the_cut_stays():
    whole = LINES + KEY + "\n" + LINES * 3
    assert beginning_of_stream(whole + "half a li") == whole
    assert end_of_stream("half a line\n" + whole) == whole


def test_what_stands_behind_a_name_on_a_line_that_is_cut_goes_with_it():
    """Nobody could tell any more that it was a password."""
    for size in range(1, 60):
        line = "Authorization: Basic dXNlcjpwYXNzd29yZA== and more of it\n"
        assert end_of_stream(line[-size:] + LINES * 3) == LINES * 3


def test_a_single_word_that_is_too_long_is_left_out():
    assert beginning("x" * 5_000, 1_000) == ""
    assert ending("x" * 5_000, 1_000) == ""
    assert beginning(f"see {'x' * 5_000}", 1_000) == "see "


def test_a_run_without_blanks_and_without_end_loses_what_may_stand_across_the_cut():
    run = b"x" * 300_000
    assert len(beginning_of_stream(run)) == len(end_of_stream(run)) == len(run) - ACROSS_MAX
    assert len(beginning(run, 200_000)) == 200_000 - ACROSS_MAX


def test_scripts_without_blanks_are_cut_between_characters():
    assert beginning("読" * 3_000, 1_000) == "読" * 1_000


def test_what_fits_is_left_as_it_is():
    assert beginning("abc", 3) == ending("abc", 3) == "abc"
    assert beginning("abc def", 3) == "abc"
    assert (
        beginning("abc", 0)
        == beginning("", 0)
        == beginning_of_stream("")
        == end_of_stream(b"".decode())
        == ""
    )


@given(st.text(alphabet="ab \n-", max_size=200), st.integers(0, 100))
def test_what_is_kept_is_a_beginning_or_an_end(text: str, most: int):
    head, tail = beginning(text, most), ending(text, most)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert max(len(head), len(tail)) <= most or most >= len(text)
    assert text.startswith(beginning_of_stream(text))
    assert text.endswith(end_of_stream(text))


@pytest.mark.timeout(20)
def test_hostile_texts_take_no_longer():
    for piece in ("-----BEGIN ", "-----BEGIN PRIVATE KEY", "-----END A ", " ", "\n", "x"):
        text = piece * (2_000_000 // len(piece))
        for function in (beginning_of_stream, end_of_stream):
            assert len(function(text)) >= len(text) - ACROSS_MAX - KEY_MAX - 64 * 1024
        beginning(text, 1_000_000)
        ending(text, 1_000_000)
