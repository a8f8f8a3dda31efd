"""Two versions of a text, side by side in the unified format. Pure; used by every door."""

import difflib

TEXT_BYTES_MAX = 1024 * 1024
"""Of one version: who changes more wants a tool for it."""

LINES_COMPARED_MAX = 5000
"""Of either version, between the first and the last line that differ: comparing takes the product of both."""

LINES_SHOWN_MAX = 5000
"""More is not read by anyone."""

CONTEXT_LINES = 3


def unified(before: bytes | None, after: bytes | None, path: str) -> list[str] | None:
    """Lines without line ends; None when it is not text. `None` as a version: there was no file.

    What is too much to compare or to show is said in a line that begins with `(`.
    """
    if max(len(before or b""), len(after or b"")) > TEXT_BYTES_MAX:
        return [f"({path}: more than {TEXT_BYTES_MAX // 1024**2} MiB of text is not compared)"]
    old, new = _lines(before), _lines(after)
    if old is None or new is None:
        return None
    if _differing(old, new) > LINES_COMPARED_MAX:
        return [f"({path}: more than {LINES_COMPARED_MAX} lines differ; they are not compared)"]
    shown = list(
        difflib.unified_diff(
            old,
            new,
            "/dev/null" if before is None else f"a/{path.lstrip('/')}",
            "/dev/null" if after is None else f"b/{path.lstrip('/')}",
            n=CONTEXT_LINES,
            lineterm="",
        )
    )
    if len(shown) > LINES_SHOWN_MAX:
        return [*shown[:LINES_SHOWN_MAX], f"({len(shown) - LINES_SHOWN_MAX} more lines are not shown)"]
    return shown


_NO_NEWLINE = "\\ No newline at end of file"


def _lines(content: bytes | None) -> list[str] | None:
    """None when it is not text."""
    if content is None:
        return []
    if b"\0" in content:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    if lines[-1]:
        return [*lines[:-1], f"{lines[-1]}\n{_NO_NEWLINE}"]
    return lines[:-1]


def _differing(old: list[str], new: list[str]) -> int:
    """Lines of the longer version between the first and the last that differ."""
    shorter = min(len(old), len(new))
    first = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    last = next((at for at in range(shorter - first) if old[-1 - at] != new[-1 - at]), shorter - first)
    return max(len(old), len(new)) - first - last
