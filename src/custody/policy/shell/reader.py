"""Reads a shell line into the programs it would start; runs nothing and never raises.

Owns the grammar between words: lists, pipes, subshells, the reserved words, redirections, here-documents,
functions, and reading again what a line hands to another shell. A structure is not checked, only seen
through: `if`, `do` and `}` are skipped, what stands between them is commands. Reading too much is a
program too many; reading too little never happens without a word in `why`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from custody.policy.shell.line import Program, Redirect, ShellLine, Via, Word, literal
from custody.policy.shell.starters import started_by
from custody.policy.shell.words import NESTING_MAX, Words

TEXT_CHARACTERS_MAX = 65_536
"""Of one line: more than people write; the kernel takes 128 KiB as one argument."""
READ_CHARACTERS_MAX = 4 * TEXT_CHARACTERS_MAX
"""In all, lines inside lines included, which are read again for every level they stand at."""
PROGRAMS_MAX = 2_000
"""Of one line; rules look at each."""

_OPERATOR = re.compile(r";;&|;&|;;|&&|\|\||\|&|[;&|]")
_REDIRECT = re.compile(
    r"(?:[0-9]+|\{[A-Za-z_]\w*\})?(&>>|&>|<<<|<<-|<<|<>|<&(?!\()|>&|>>|>\||<(?!\()|>(?!\())", re.ASCII
)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=", re.ASCII)
_SKIPPED = frozenset("if then elif else fi do done while until { } !".split())
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f\u2060\u3000\ufeff\ud800-\udfff]"
)
_ODD_CONTINUATION = re.compile(r"(?<![\s\w./'\",:-])\\\n|\\\n(?![\s\w./'\"-])")
"""A line continued in the middle of an operator, where shells join its halves."""
_DELIMITER = re.compile(r"(?:'([^'\n]*)'|\"([^\"\\$`\n]*)\"|(\\?)([\w.+-]+))(?=[\s|&;<>()]|\Z)", re.ASCII)
_BRACKETS = re.compile(r"[ \t]*\([ \t]*\)")
_TIME_OPTION = re.compile(r"[ \t]+-p(?=\s)")


def read_shell(text: str) -> ShellLine:
    """What `sh -c text` would start."""
    reading = _Reading()
    reading.line(text, "line", 0)
    return reading.result()


def read_argv(argv: Sequence[str]) -> ShellLine:
    """What running these words without a shell would start."""
    reading = _Reading()
    if not argv:
        reading.note("no program")
    elif sum(map(len, argv)) > TEXT_CHARACTERS_MAX:
        reading.note("too long")
        reading.programs.append(Program(name=argv[0].rpartition("/")[2], path=argv[0]))
    else:
        if any("\0" in word for word in argv):
            reading.note("odd character")
        reading.guarded(lambda: reading.command([literal(word) for word in argv], (), (), "line", 0))
    return reading.result()


class _Reading:
    """What one line and all lines inside it have given so far."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.assignments: dict[str, None] = {}
        self.redirects: list[Redirect] = []
        self.why: dict[str, None] = {}
        self.moves = False
        self.left = READ_CHARACTERS_MAX

    def note(self, why: str) -> None:
        self.why[why] = None

    def result(self) -> ShellLine:
        return ShellLine(
            programs=tuple(self.programs),
            assignments=tuple(self.assignments),
            redirects=tuple(self.redirects),
            why=tuple(self.why),
            moves=self.moves,
        )

    def guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except RecursionError:  # the caller's own stack was deep already
            self.note("nesting")

    def line(self, text: str, via: Via, depth: int) -> None:
        if len(text) > TEXT_CHARACTERS_MAX or len(text) > self.left:
            self.note("too long")
            return
        self.left -= len(text)
        if _ODD.search(text):
            self.note("odd character")
        if "\\\n" in text and _ODD_CONTINUATION.search(text):
            self.note("continued operator")
        commands = _Commands(self, text, via, depth)
        self.guarded(commands.read)
        self.why |= commands.why
        self.assign(commands.set_names)

    def assign(self, names: Iterable[str]) -> None:
        self.assignments |= dict.fromkeys(names)

    def command(
        self,
        words: Sequence[Word],
        assignments: tuple[str, ...],
        redirects: tuple[Redirect, ...],
        via: Via,
        depth: int,
    ) -> None:
        """One simple command, and what its program starts in turn."""
        self.assign(assignments)
        self.redirects += redirects
        while words:
            if len(self.programs) >= PROGRAMS_MAX or self.left <= 0:
                self.note("too many programs")
                return
            self.left -= sum(len(word.known) + 1 for word in words)
            program = _program(words, assignments, redirects, via)
            self.programs.append(program)
            if program.name is None:
                self.note("program")
                return
            started = started_by(program)
            self.why |= dict.fromkeys(started.why)
            self.assign(started.assignments)
            self.redirects += started.redirects
            self.moves = self.moves or started.moves
            for line in started.lines:
                if depth >= NESTING_MAX:
                    self.note("nesting")
                else:
                    self.line(line, "wrapper", depth + 1)
            for command in started.commands[1:]:
                self.command(command, started.assignments, (), "wrapper", depth + 1)
            words = started.commands[0] if started.commands else ()
            assignments, redirects, via = (*assignments, *started.assignments), (), "wrapper"


def _program(
    words: Sequence[Word], assignments: tuple[str, ...], redirects: tuple[Redirect, ...], via: Via
) -> Program:
    path = words[0].text if words[0].single else None
    return Program(
        name=None if path is None else path.rpartition("/")[2],
        path=path,
        words=tuple(words[1:]),
        assignments=assignments,
        redirects=redirects,
        via=via,
    )


class _Simple:
    """A simple command while it is read."""

    def __init__(self, via: Via) -> None:
        self.via: Via = via
        self.words: list[Word] = []
        self.assignments: list[str] = []
        self.redirects: list[Redirect] = []
        self.dropped = False
        """Its words are the list of a `for`, not a command."""


class _Commands(Words):
    """Reads the commands of one text."""

    def __init__(self, reading: _Reading, text: str, via: Via, depth: int) -> None:
        super().__init__(text, depth)
        self._reading = reading
        self._via: Via = via
        self._here: list[tuple[str, bool, bool]] = []
        """Here-documents whose text begins behind the next line's end: delimiter, tabs cut, quoted."""
        self._arithmetic = 0

    def read(self) -> None:
        while self.at < len(self.text):
            self.listing("")
        if self._here:
            self.note("unterminated here-document")

    def listing(self, closing: str) -> str:
        """Commands up to `)`, or up to what ends a branch of a `case`; gives what ended them."""
        command = _Simple(self._via)
        while self.at < len(self.text):
            self.skip_blanks()
            character = self.peek()
            operator = _OPERATOR.match(self.text, self.at)
            redirect = _REDIRECT.match(self.text, self.at)
            if redirect is not None:
                self._redirect(redirect, command)
            elif character == "\n":
                command = self._finish(command)
                self._newline()
            elif character == "#":
                self._comment()
            elif operator is not None:
                self.at = operator.end()
                command = self._finish(command, piped=operator[0] in ("|", "|&"))
                if operator[0] in (";;", ";&", ";;&"):
                    if closing == "esac":
                        return operator[0]
                    self.note("syntax")
            elif character == "(":
                command = self._open(command)
            elif character == ")":
                self.at += 1
                command = self._finish(command)
                if closing == ")":
                    return closing
                self.note("syntax")
            elif character and self._take(command) == "esac" and closing == "esac":
                return closing
        self._finish(command)
        if closing:
            self.note("unterminated list")
        return ""

    def _finish(self, command: _Simple, *, piped: bool = False) -> _Simple:
        words = () if command.dropped else command.words
        if words or command.assignments or command.redirects:
            self._reading.command(
                words, tuple(command.assignments), tuple(command.redirects), command.via, self.depth
            )
        return _Simple("pipe" if piped else self._via)

    def _skip(self, expression: re.Pattern[str]) -> None:
        found = expression.match(self.text, self.at)
        self.at = self.at if found is None else found.end()

    def _comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    # -- what words ask for ---------------------------------------------------------------------------

    def nested(self, closing: str, via: Via = "substitution") -> None:
        before, self._via = self._via, via
        arithmetic = self.text[self.at - 2 : self.at + 1] == "$(("
        self._arithmetic += arithmetic
        waiting = len(self._here)
        self.deeper()
        if self.at < len(self.text):
            self.listing(closing)
        else:
            self.note("unterminated list")
        if len(self._here) > waiting:
            self.note("here-document")
        self.depth -= 1
        self._arithmetic -= arithmetic
        self._via = before

    def line_inside(self, text: str) -> None:
        if self.depth >= NESTING_MAX:
            self.note("nesting")
        else:
            self._reading.line(text, "substitution", self.depth + 1)

    # -- words at the begin of a command --------------------------------------------------------------

    def _take(self, command: _Simple) -> str | None:
        """The next word; gives the reserved word it was."""
        word = self.word()
        if word is None:
            self.note("syntax")
            self.at += 1
            return None
        if command.words:
            command.words.append(word)
            return None
        if word.text is not None and word.text == word.bare and self._reserved(word.text, command):
            if command.assignments or command.redirects:
                self.note("syntax")  # behind them it is the name of a program
            return word.text
        assigned = _ASSIGNMENT.match(word.bare)
        if assigned is None:
            command.words.append(word)
            return None
        command.assignments.append(assigned[1])
        if "+" in assigned[0]:
            self.note("appended variable")  # the name of a program where the shell is dash
        if self.peek() == "(":
            self.note("array")
            self.at += 1
            self.nested(")")
        return None

    def _reserved(self, word: str, command: _Simple) -> bool:
        if word in _SKIPPED or word == "esac":
            return True
        if word in ("for", "select"):
            self._loop(word, command)
        elif word == "case":
            self._case()
        elif word == "function":
            self.note("function")
            self.skip_blanks()
            self.word()
            self._skip(_BRACKETS)
        elif word == "coproc":
            self.note("coproc")
        elif word == "time":
            self._reading.programs.append(Program(name=word, path=word, via=command.via))
            self._skip(_TIME_OPTION)
        else:
            if word == "[[":
                self.note("double brackets")
            return False
        return True

    def _loop(self, kind: str, command: _Simple) -> None:
        self.skip_blanks()
        name = self.word()
        if name is None or name.text is None:
            self.note("arithmetic")
            return
        self.set_names.append(name.text)
        if kind == "select":
            self.note(kind)
        self.skip_blanks()
        begin = self.at
        word = self.word()
        if word is not None and word.text == "in":
            command.dropped = True
            command.words.append(word)
        else:
            self.at = begin

    def _case(self) -> None:
        self.skip_blanks()
        self.word()
        self._skip_lines()
        word = self.word()
        if word is None or word.text != "in":
            self.note("syntax")
            return
        self.deeper()
        ended = ";;"
        while ended not in ("esac", ""):
            ended = self.listing("esac") if self._patterns() else "esac"
        self.depth -= 1

    def _patterns(self) -> bool:
        """The patterns of one branch and their `)`; False where the `case` ends."""
        self._skip_lines()
        if self.peek() == "(":
            self.at += 1
            self.skip_blanks()
        word = self.word()
        if word is not None and word.bare == word.text == "esac":
            return False
        self.skip_blanks()
        while self.peek() == "|":
            self.at += 1
            self.skip_blanks()
            self.word()
            self.skip_blanks()
        if word is None or self.peek() != ")":
            self.note("syntax")
            return False
        self.at += 1
        return True

    def _skip_lines(self) -> None:
        while self.at < len(self.text):
            self.skip_blanks()
            if self.peek() == "\n":
                self._newline()
            elif self.peek() == "#":
                self._comment()
            else:
                return

    def _open(self, command: _Simple) -> _Simple:
        """A subshell; behind a word the brackets of a function."""
        brackets = _BRACKETS.match(self.text, self.at)
        if len(command.words) == 1 and brackets is not None:
            self.note("function")
            self.at = brackets.end()
            return _Simple(self._via)
        if command.words:
            self.note("syntax")
            command = self._finish(command)
        if self.peek(2) == "((":
            self.note("arithmetic")
        self.at += 1
        self.nested(")", command.via)
        return command

    # -- redirections and here-documents --------------------------------------------------------------

    def _redirect(self, redirect: re.Match[str], command: _Simple) -> None:
        self.at = redirect.end()
        op = redirect[1]
        self.skip_blanks()
        if op in ("<<", "<<-"):
            if not self._arithmetic:
                self._delimiter(cut=op == "<<-")
            return
        target = self.word()
        if target is None:
            self.note("syntax")
        elif op != "<<<":
            command.redirects.append(Redirect(op, target))
        if op.startswith("&>"):
            self.skip_blanks()
            if self.peek() not in ("", "\n", ";", "&", "|", ")"):
                self.note("both streams")  # for dash another command begins in front of the `>`

    def _delimiter(self, *, cut: bool) -> None:
        plain = _DELIMITER.match(self.text, self.at)
        if plain is not None:
            self.at = plain.end()
            single, double, escape, bare = plain.groups()
            quoted = bare is None or bool(escape)
            self._here.append(
                (next(part for part in (single, double, bare) if part is not None), cut, quoted)
            )
            return
        self.note("here-document")
        word = self.word()
        self._here.append(("" if word is None else word.known, cut, False))

    def _newline(self) -> None:
        """Over the end of the line, and over the here-documents that begin behind it."""
        self.at += 1
        waiting, self._here = self._here, []
        for delimiter, cut, quoted in waiting:
            body = self._body(delimiter, cut=cut)
            if not quoted:
                self._expanded(body)

    def _body(self, delimiter: str, *, cut: bool) -> str:
        begin = line = self.at
        while line < len(self.text):
            end = self.text.find("\n", line)
            end = len(self.text) if end < 0 else end
            found = self.text[line:end]
            if (found.lstrip("\t") if cut else found) == delimiter:
                self.at = min(end + 1, len(self.text))
                return self.text[begin:line]
            line = end + 1
        self.note("unterminated here-document")
        self.at = len(self.text)
        return self.text[begin:]

    def _expanded(self, body: str) -> None:
        """The substitutions in a here-document whose delimiter is not quoted."""
        if self.depth >= NESTING_MAX or len(body) > self._reading.left:
            self.note("nesting")
            return
        self._reading.left -= len(body)
        if "\\\n" in body:
            self.note("continued here-document")  # its delimiter may stand on two lines
        inner = _Commands(self._reading, body, "substitution", self.depth + 1)
        inner.double_quoted()
        self.why |= inner.why
        self.set_names += inner.set_names
