"""What reading a shell line gives: its words, programs and redirections.

Owns the shapes. Used by the reader, the programs that start others, and the table of harmless programs.
"""

from typing import Literal

from msgspec import Struct

Via = Literal["line", "pipe", "substitution", "wrapper"]


class Word(Struct, frozen=True):
    """One word of a command."""

    text: str | None
    """What the program gets; None where only running the line would tell."""
    known: str = ""
    """The parts of it that are certain, in order, quotes removed."""
    prefix: str = ""
    """What it certainly begins with."""
    single: bool = True
    """It becomes exactly one argument."""
    bare: str = ""
    """What it begins with outside quotes: reserved words and assignments are recognised by this only."""

    pattern: bool = False
    """Nothing of it is unknown but which files its `*`, `?` and `[...]` find."""

    @property
    def no_option(self) -> bool:
        """It can become no option, whatever it turns out to be."""
        if self.text is not None:
            return not self.text.startswith("-")
        return self.single and self.prefix != "" and not self.prefix.startswith("-")


def literal(text: str) -> Word:
    return Word(text, text, text)


UNKNOWN = Word(None, single=False)
"""Any number of any words."""


class Redirect(Struct, frozen=True):
    """A redirection, or a file that a program writes like one (`tee`)."""

    op: str
    target: Word

    @property
    def writes(self) -> bool:
        return ">" in self.op

    @property
    def duplicates(self) -> bool:
        """`2>&1`, `<&3`, `>&-`: no file is opened."""
        text = self.target.text
        return self.op in (">&", "<&") and text is not None and (text.rstrip("-").isdigit() or text == "-")


class Program(Struct, frozen=True, kw_only=True):
    """A program the line would start, or a builtin of the shell."""

    name: str | None
    """The last part of the path; None where it cannot be told."""
    path: str | None
    """As written; None where it cannot be told."""
    words: tuple[Word, ...] = ()
    """Its arguments, the name not among them."""
    assignments: tuple[str, ...] = ()
    """Names of the variables set for it."""
    redirects: tuple[Redirect, ...] = ()
    via: Via = "line"

    @property
    def argv(self) -> tuple[str | None, ...]:
        return (self.path, *(word.text for word in self.words))


class ShellLine(Struct, frozen=True, kw_only=True):
    """What a line would start."""

    programs: tuple[Program, ...] = ()
    """In the order they are read, those inside substitutions and behind wrappers included."""
    assignments: tuple[str, ...] = ()
    """Names of all variables the line sets."""
    redirects: tuple[Redirect, ...] = ()
    """All of them, those of no program (`> file`) included."""
    why: tuple[str, ...] = ()
    """What could not be told, in a word each; empty: everything was."""
    moves: bool = False
    """It changes its working directory, so that relative paths and repositories are others."""

    @property
    def unclear(self) -> bool:
        return self.why != ()
