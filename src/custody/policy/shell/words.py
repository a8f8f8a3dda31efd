"""The words of a shell line: quotes, escapes, expansions, and where the next word begins.

Owns the grammar inside a word and the position in the text. What stands inside a substitution is a list of
commands, which the reader above it reads: this module only asks for it. Shells differ; where dash and bash
read one text in two ways, the reading goes on and the line is noted as one that cannot be told.
"""

import re

from custody.policy.shell.line import Word

NESTING_MAX = 64
"""Substitutions, subshells and lines inside lines. People write three; Python's stack holds a few hundred."""

BLANKS = " \t"
ENDS_WORD = frozenset(" \t\n|&;<>()")
_PLAIN = re.compile(r"[^\s'\"\\$`|&;<>()*?\[{~]+")
_IN_QUOTES = re.compile(r"[^\"\\$`]+")
_IN_BRACES = re.compile(r"[^\"'\\$`}]+")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]", re.ASCII)
_SIMPLE_PARAMETER = re.compile(r"\$\{(?:#?[A-Za-z_]\w*|#?[0-9]+|#?[@*]|[#?$!-])\}", re.ASCII)
_PARAMETER_WITH_WORD = re.compile(r"\$\{([A-Za-z_]\w*|[0-9]+|[@*])(:?[-+?]|:?=|##?|%%?)", re.ASCII)
_SIMPLE_ARITHMETIC = re.compile(r"\$\(\([0-9 +\-*/%]*\)\)", re.ASCII)
_ANSI_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|c(.)|(.))", re.DOTALL
)
_ANSI_LETTERS = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ANSI_LETTERS["v"] = "\v"


class _Growing:
    """A word while it is read."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.prefix: list[str] = []
        self.bare: list[str] = []
        self.static = True
        self.single = True
        self.unquoted = True
        self.started = False
        self.pattern = True

    def add(self, text: str, *, quoted: bool) -> None:
        self.started = True
        self.known.append(text)
        if self.static:
            self.prefix.append(text)
        if quoted:
            self.unquoted = False
        if self.unquoted and self.static:
            self.bare.append(text)

    def unknown(self, *, single: bool, pattern: bool = False) -> None:
        self.started = True
        self.pattern = self.pattern and pattern
        self.static = False
        self.single = self.single and single

    def word(self) -> Word:
        known = "".join(self.known)
        if not self.static and known in ("[", "[[", "{", "{}") and self.unquoted:
            return Word(known, known, known, True, known)  # alone, none of them is a pattern
        return Word(
            known if self.static else None,
            known,
            "".join(self.prefix),
            self.single,
            "".join(self.bare),
            self.pattern and not self.static,
        )


class Words:
    """Reads words from one text. `nested` reads a list of commands and stands behind its end after."""

    def __init__(self, text: str, depth: int) -> None:
        self.text = text
        self.at = 0
        self.depth: int = depth
        self.why: dict[str, None] = {}
        self.set_names: list[str] = []

    def note(self, why: str) -> None:
        self.why[why] = None

    def nested(self, closing: str) -> None:
        raise NotImplementedError

    def line_inside(self, text: str) -> None:
        raise NotImplementedError

    def peek(self, length: int = 1) -> str:
        return self.text[self.at : self.at + length]

    def skip_blanks(self) -> None:
        text = self.text
        while self.at < len(text):
            if text[self.at] in BLANKS:
                self.at += 1
            elif text.startswith("\\\n", self.at):
                self.at += 2
            else:
                break

    def word(self) -> Word | None:
        """The word that begins here; None where none does."""
        growing = _Growing()
        text = self.text
        while self.at < len(text):
            plain = _PLAIN.match(text, self.at)
            if plain is not None:
                self.at = plain.end()
                growing.add(plain[0], quoted=False)
                continue
            character = text[self.at]
            if character in ENDS_WORD and self.peek(2) not in ("<(", ">("):
                break
            self._piece(character, growing)
        return growing.word() if growing.started else None

    def _piece(self, character: str, growing: _Growing) -> None:
        """One quoted text, expansion or special character of a word."""
        if character == "'":
            growing.add(self._until("'"), quoted=True)
        elif character == '"':
            self.at += 1
            self.double_quoted(growing, '"')
        elif character == "\\":
            escaped = self.peek(2)
            self.at += 2
            if escaped != "\\\n":
                growing.add(escaped[1:] or "\\", quoted=True)
        elif character == "$":
            self._dollar(growing, in_quotes=False)
        elif character == "`":
            self._backticks(growing, in_quotes=False)
        elif character in "<>":
            self.at += 2
            growing.add("/dev/fd/", quoted=True)
            growing.unknown(single=True)
            self.nested(")")
        else:
            self._special(character, growing)

    def _special(self, character: str, growing: _Growing) -> None:
        """Patterns, braces, a tilde, and white space of other alphabets, which belongs to the word."""
        self.at += 1
        if character == "~" and not growing.started:
            growing.add(character, quoted=False)
            growing.unknown(single=True)
        elif character in "*?[{":
            if character != "{" or self.peek() not in ("", "}"):
                growing.unknown(single=False, pattern=character != "{")
            growing.add(character, quoted=False)
        else:
            growing.add(character, quoted=False)

    def _until(self, closing: str) -> str:
        """What stands between two of the same character; this is the first."""
        begin = self.at + 1
        end = self.text.find(closing, begin)
        if end < 0:
            self.note("unterminated quote")
            end = len(self.text)
        self.at = end + 1
        return self.text[begin:end]

    # -- double quotes and here-documents -------------------------------------------------------------

    def double_quoted(self, growing: _Growing | None = None, closing: str = "") -> None:
        """Up to the closing quote; with none (a here-document) to the end of the text."""
        growing = growing or _Growing()
        growing.add("", quoted=True)
        text = self.text
        while self.at < len(text):
            run = _IN_QUOTES.match(text, self.at)
            if run is not None:
                self.at = run.end()
                growing.add(run[0], quoted=True)
                continue
            character = text[self.at]
            if character == closing:
                self.at += 1
                return
            if character == "\\":
                growing.add(self._escaped_in_quotes(), quoted=True)
            elif character == "$":
                self._dollar(growing, in_quotes=True)
            elif character == "`":
                self._backticks(growing, in_quotes=True)
            else:  # a double quote inside a here-document
                self.at += 1
                growing.add(character, quoted=True)
        if closing:
            self.note("unterminated quote")

    def _escaped_in_quotes(self) -> str:
        pair = self.peek(2)
        self.at += len(pair)
        if pair == "\\\n":
            return ""
        return pair[1] if pair[1:] in ("$", "`", '"', "\\") else pair

    # -- expansions -----------------------------------------------------------------------------------

    def _dollar(self, growing: _Growing, *, in_quotes: bool) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        name = _NAME.match(self.text, self.at + 1)
        if following == "(":
            self._parenthesis(growing, in_quotes=in_quotes)
        elif following == "{":
            self._parameter(growing, in_quotes=in_quotes)
        elif name is not None:
            self.at = name.end()
            growing.unknown(single=in_quotes and name[0] != "@")
        elif following == "'" and not in_quotes:
            self.note("ansi quoting")  # dash has none: there the quote ends elsewhere
            self._ansi(growing)
        elif following == '"' and not in_quotes:
            self.note("translated text")
            self.at += 1
        else:
            if following == "[":
                self.note("arithmetic")
            elif following == "\\":
                self.note("continued operator")
            self.at += 1
            growing.add("$", quoted=in_quotes)

    def _parenthesis(self, growing: _Growing, *, in_quotes: bool) -> None:
        simple = _SIMPLE_ARITHMETIC.match(self.text, self.at)
        growing.unknown(single=in_quotes or simple is not None)
        if simple is not None:
            self.at = simple.end()
            return
        if self.peek(3) == "$((":
            self.note("arithmetic")  # a subscript in it can run a command
        self.at += 2
        self.nested(")")

    def _parameter(self, growing: _Growing, *, in_quotes: bool) -> None:
        growing.unknown(single=in_quotes)
        simple = _SIMPLE_PARAMETER.match(self.text, self.at)
        if simple is not None:
            self.at = simple.end()
            if "@" in simple[0]:
                growing.unknown(single=False)
            return
        known = _PARAMETER_WITH_WORD.match(self.text, self.at)
        if known is None:
            self.note("parameter")  # `${!x}` and `${x@P}` run what a variable holds
            self.at += 2
        else:
            self.at = known.end()
            if known[2] in ("=", ":="):
                self.set_names.append(known[1])
        self._braced(in_quotes=in_quotes)

    def _braced(self, *, in_quotes: bool) -> None:
        """The word inside `${name:-word}`, up to its closing brace."""
        self.deeper()
        inner = _Growing()
        while self.at < len(self.text):
            run = _IN_BRACES.match(self.text, self.at)
            if run is not None:
                self.at = run.end()
                continue
            character = self.text[self.at]
            if character == "}":
                self.at += 1
                self.depth -= 1
                return
            if character == "'" and in_quotes:
                self.note(
                    "quote in a parameter"
                )  # a quote for some operators and shells, a letter for others
                self.at += 1
            elif character == '"' and in_quotes:
                self.note("quote in a parameter")
                self.at += 1
            else:
                self._piece(character, inner)
        self.depth -= 1
        self.note("unterminated parameter")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > NESTING_MAX:
            self.note("nesting")
            self.at = len(self.text)

    def _backticks(self, growing: _Growing, *, in_quotes: bool) -> None:
        growing.unknown(single=in_quotes)
        self.at += 1
        pieces: list[str] = []
        escapes = '$`\\"' if in_quotes else "$`\\"
        while self.at < len(self.text):
            end = self.at
            while end < len(self.text) and self.text[end] not in "`\\":
                end += 1
            pieces.append(self.text[self.at : end])
            self.at = end
            if self.peek() == "`":
                self.at += 1
                self.line_inside("".join(pieces))
                return
            pair = self.peek(2)
            self.at += len(pair)
            if pair == '\\"':
                self.note("quote in backticks")  # shells differ in whether the backslash stays
            pieces.append(pair[1] if pair[1:] and pair[1] in escapes else pair)
        self.note("unterminated substitution")
        self.line_inside("".join(pieces))

    def _ansi(self, growing: _Growing) -> None:
        begin = self.at = self.at + 2
        while self.at < len(self.text) and self.text[self.at] != "'":
            self.at += 2 if self.text[self.at] == "\\" else 1
        if self.at >= len(self.text):
            self.note("unterminated quote")
        growing.add(_ANSI_ESCAPE.sub(_ansi_character, self.text[begin : self.at]), quoted=True)
        self.at += 1


def _ansi_character(escape: re.Match[str]) -> str:
    octal, byte, short, long, control, letter = escape.groups()
    if octal is not None:
        return chr(int(octal, 8) & 0xFF)
    number = byte or short or long
    if number is not None:
        code = int(number, 16)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
    if control is not None:
        return chr(ord(control) & 0x1F)
    return _ANSI_LETTERS.get(letter, letter)
