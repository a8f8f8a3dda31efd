"""Errors that are alike have one pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.index.error_pattern import PATTERN_CHARACTERS_MAX, error_pattern, normalised


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        ("timeout after 31 s for /a/b", "timeout after <n> s for <path>"),
        ("timeout after 7 s for /c", "timeout after <n> s for <path>"),
        ("[Errno 2] No such file or directory: '/tmp/a b'", "[Errno <n>] No such file or directory: <text>"),
        ("can't open 'x y', don't ask", "can't open <text>, don't ask"),
        ("id 550e8400-e29b-41d4-a716-446655440000 at 0x7f3a", "id <id> at <hex>"),
        ("commit deadbee1 or A1B2C3 is gone", "commit <hex> or <hex> is gone"),
        ("see https://host/a?b=1 now", "see <url> now"),
        ("src/a/b.py:12: bad", "<path>:<n>: bad"),
        ("../x and ~/y and C:\\z", "<path> and <path> and <path>"),
        ("call toolu_01AbCdEf failed \n  twice", "call <token> failed twice"),
        ("took 1,234.5e-3 of -5", "took <n> of <n>"),
        ("no facade, no deed", "no facade, no deed"),
        ("", ""),
    ],
)
def test_what_is_particular_is_replaced(message, pattern):
    assert normalised(message) == pattern


@pytest.mark.parametrize(
    ("error", "reason", "pattern"),
    [
        ({"type": "E", "message": "no 1"}, "E", "E: no <n>"),
        ({"type": "E", "message": ""}, None, "E"),
        ({"message": "no 1"}, None, "no <n>"),
        ({"$digest": "ff", "bytes": 3}, "E", "E"),
        ("gone", None, "gone"),
        (None, "exit code 7", "exit code <n>"),
        (None, None, None),
        ({"type": 3, "message": ["x"]}, None, None),
        (None, "", None),
    ],
)
def test_the_error_speaks_and_else_the_reason(error, reason, pattern):
    assert error_pattern(error, reason) == pattern


@given(st.text(alphabet=" ab0.,:/\\'\"`-_<>[]\n~xé", max_size=600))
def test_a_pattern_is_short_and_on_one_line(text):
    pattern = normalised(text)
    assert len(pattern) <= PATTERN_CHARACTERS_MAX
    assert "\n" not in pattern
    assert not any(character.isdigit() for character in pattern)
