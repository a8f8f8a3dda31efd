"""Lines of text fitted to the terminal; a pipe gets all of them.

Owns how much of a text is shown and how what is left out is counted. Used by `timeline`, `tail` and `sql`.
"""

from custody.cli.invocation import fold_lines, printable
from custody.cli.render import paint


def one_line(text: str) -> str:
    """What was recorded, on one line, with nothing in it that steers the terminal."""
    return printable(fold_lines(text), keep="")


def folded(text: str, cut_characters: int, room: int | None, lines_max: int, style: str = "") -> list[str]:
    """A text on as many lines of a terminal, or on the one of a pipe; says how much is left out."""
    clean = one_line(text)
    if room is None:
        return [cut(clean, cut_characters, None)]
    lines: list[str] = []
    while clean and len(lines) < lines_max - 1 and cells(clean) > room:
        line = fitting(clean, room)
        space = line.rfind(" ")
        line = line[:space] if space > room // 2 else line
        lines.append(line)
        clean = clean[len(line) :].lstrip()
    lines.append(cut(clean, cut_characters, room))
    return [paint(line, style) for line in lines]


def cut(text: str, cut_characters: int, room: int | None) -> str:
    """The text, or what fits of it and how many characters do not."""
    if cut_characters == 0 and (room is None or cells(text) <= room):
        return text
    note = f" … ({cut_characters:,} more characters)"
    if room is None or cells(text) + len(note) <= room:
        return text + note
    note = f" … ({len(text) + cut_characters:,} more characters)"  # never shorter than what it will be
    kept = fitting(text, max(room - len(note), 1))
    return f"{kept} … ({len(text) - len(kept) + cut_characters:,} more characters)"


def begun(text: str, cut_characters: int, room: int | None) -> str:
    """What fits of a text that stands at the end of a line; a pipe gets it all."""
    if room is None or (cut_characters == 0 and cells(text) <= room):
        return cut(text, cut_characters, None)
    return f"{fitting(text, room - 1)}…" if room > 0 else ""


def fitting(text: str, room: int) -> str:
    """The beginning of a text that takes so many columns."""
    from rich.cells import chop_cells

    return chop_cells(text, room)[0] if room > 0 and text else ""


def cells(text: str) -> int:
    """Columns a text takes: wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
