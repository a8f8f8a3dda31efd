"""Well-known programs that only read, and with which of their options.

Owns the table and the one question it answers: is this line harmless, so that nobody need be asked. What is
not in the table, or not read to its end, is not. Harmless is a word about programs, not about files: what a
line reads is for other rules. A line that is not harmless need not harm.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from custody.policy.shell.line import Program, Redirect, ShellLine, Word
from custody.policy.shell.starters import WRAPPERS, simple_sed_script

_SAFE_VARIABLE = re.compile(
    r"LC_[A-Z]+|LANG|LANGUAGE|TZ|NO_COLOR|CLICOLOR|COLUMNS|LINES|[a-z][a-z0-9_]*", re.ASCII
)
"""Variables that change how a reading program writes and nothing else. Names in small letters are those of
the line itself: no program of the table reads one."""
_WRITABLE = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr"})


class Reads(Struct, frozen=True, kw_only=True):
    """A program that only reads, unless one of its options makes it write or start another."""

    letters: str = ""
    """Letters that must stand in no word beginning with one hyphen."""
    options: tuple[str, ...] = ()
    """Long options that must not be there, in none of the abbreviations GNU programs take."""
    operands_max: int | None = None
    """Where a further operand is written to."""
    check: Callable[[Sequence[Word]], bool] | None = None


_ANY = Reads()


def is_harmless(line: ShellLine) -> bool:
    """Nothing but well-known programs that only read, and nothing that could not be told."""
    return (
        not line.unclear
        and line.programs != ()
        and all(_SAFE_VARIABLE.fullmatch(name) for name in line.assignments)
        and all(map(_opens_to_read, line.redirects))
        and all(_only_reads(program, moves=line.moves) for program in line.programs)
    )


def _opens_to_read(redirect: Redirect) -> bool:
    target = redirect.target.text
    if redirect.duplicates:
        return True
    if target is None or not redirect.target.single:
        return False
    if redirect.writes:
        return redirect.op != "<>" and target in _WRITABLE
    return redirect.op == "<" and (target == "/dev/null" or not target.startswith("/dev/"))


def _only_reads(program: Program, *, moves: bool) -> bool:
    name = program.name
    if name is None or name != program.path:  # a path is not the well-known program, whatever its last part
        return False
    if name in WRAPPERS:
        return WRAPPERS[name].harmless
    if name in ("sh", "bash", "dash"):
        return _only_hands_on(program.words)
    if name == "git":
        return not moves and _git(program.words)  # another folder's settings may name programs to run
    reads = PROGRAMS.get(name)
    if reads is None:
        return False
    if reads.check is not None:
        return reads.check(program.words)
    return reads == _ANY or _without(reads, program.words)


def _only_hands_on(words: Sequence[Word]) -> bool:
    """`sh -c LINE` and no other option: what LINE starts has been read."""
    return len(words) >= 2 and words[0].text == "-c"


def _without(reads: Reads, words: Sequence[Word]) -> bool:
    operands = 0
    for word in words:
        text = word.text
        if text is None or not text.startswith("-") or text == "-":
            if not word.no_option and text != "-":
                return False
            operands += 1
        elif text.startswith("--"):
            name = text[2:].partition("=")[0]
            if name and any(option.startswith(name) for option in reads.options):
                return False
        elif set(reads.letters) & set(text[1:]):
            return False
    return reads.operands_max is None or operands <= reads.operands_max


# -- programs with a grammar of their own ---------------------------------------------------------------


def _without_words(*refused: str) -> Callable[[Sequence[Word]], bool]:
    """`find`: options are whole words behind one hyphen."""

    def check(words: Sequence[Word]) -> bool:
        return all(
            word.no_option or (word.text is not None and not word.text.startswith(refused)) for word in words
        )

    return check


def _date(words: Sequence[Word]) -> bool:
    """An operand without `+` sets the clock."""
    takes_value = False
    for word in words:
        text = word.text
        if takes_value:
            takes_value = False
        elif text in ("-d", "--date", "-r", "--reference", "-f"):
            takes_value = True
        elif text is None or not re.fullmatch(
            r"\+.*|-[uR]+|-I\w*|--(?:utc|universal|date=.*|iso-8601(?:=\w+)?|rfc-\w+(?:=\w+)?|reference=.*)",
            text,
            re.DOTALL,
        ):
            return False
    return True


def _test(words: Sequence[Word]) -> bool:
    """bash runs what stands in a subscript behind `-v`; a word that is not known could be that."""
    if len(words) in (2, 3) and re.fullmatch(r"-[defhLnprsSwxz]", words[0].text or ""):
        return words[1].single
    return all(word.text is not None and word.text not in ("-v", "-R") for word in words)


def _printf(words: Sequence[Word]) -> bool:
    return bool(words) and words[0].no_option


def _set(words: Sequence[Word]) -> bool:
    return all(
        re.fullmatch(r"[-+](?:[eufCE]+|[eufE]*o)|pipefail|errexit|nounset", word.text or "") for word in words
    )


def _sed(words: Sequence[Word]) -> bool:
    script: str | None = None
    takes_script = False
    for word in words:
        text = word.text
        if takes_script:
            takes_script = False
        elif text in ("-e", "-ne", "-Ee", "-nE", "-n", "-E", "-r", "-s", "-z", "-u", "--quiet", "--silent"):
            takes_script = text.endswith("e") and not text.startswith("--")
            script = script or (text if takes_script else None)
            continue
        elif not word.no_option:
            return False
        elif script is not None:
            continue
        script = text or ""
        if not simple_sed_script(script):
            return False
    return script is not None


_GIT_LISTS = Reads(
    letters="O",
    options=("output", "ext-diff", "textconv", "open-files-in-pager", "show-signature", "edit", "unset"),
)
_GIT_SIGNATURES = re.compile(r"%G|%\([^)]*signature")
"""Formats for which git runs the program that checks signatures."""
_GIT_READS: Mapping[str, Reads] = {
    **dict.fromkeys(
        (
            "status blame annotate cherry count-objects describe for-each-ref ls-files ls-tree merge-base "
            "name-rev rev-list rev-parse show-ref var version whatchanged check-ignore diff-index diff-files "
            "diff-tree log diff show shortlog grep"
        ).split(),
        _GIT_LISTS,
    ),
    "branch": Reads(check=lambda words: _listed(words, r"-[arv]+|--(?:all|remotes|list|show-current)")),
    "tag": Reads(check=lambda words: _listed(words, r"-l|-n\d*|--list|--sort=[\w:-]+")),
    "remote": Reads(check=lambda words: _listed(words, r"-v|--verbose") or _begins(words, "get-url")),
    "stash": Reads(check=lambda words: _begins(words, "list")),
    "reflog": Reads(check=lambda words: not words or _begins(words, "show")),
    "worktree": Reads(check=lambda words: _begins(words, "list")),
    "config": Reads(
        check=lambda words: _begins(words, "--get", "--get-all", "--list", "-l", "list", "get")
    ),
    "cat-file": Reads(options=("textconv", "filters")),
}  # fmt: skip


def _listed(words: Sequence[Word], options: str) -> bool:
    """Nothing but these options; behind `--list` also patterns."""
    lists = any(word.text in ("-l", "--list") for word in words)
    return all(
        re.fullmatch(options, word.text or "") is not None or (lists and word.no_option) for word in words
    )


def _begins(words: Sequence[Word], *names: str) -> bool:
    return bool(words) and words[0].text in names and _without(_GIT_LISTS, words[1:])


def _git(words: Sequence[Word]) -> bool:
    at = 0
    while at < len(words) and words[at].text in ("--no-pager", "-P", "--no-optional-locks"):
        at += 1
    if at == len(words):
        return False
    if len(words) == at + 1 and words[at].text in ("--version", "-v"):
        return True
    reads = _GIT_READS.get(words[at].text or "")
    if reads is None:
        return False
    rest = words[at + 1 :]
    if any(_GIT_SIGNATURES.search(word.known) for word in rest):
        return False
    return reads.check(rest) if reads.check is not None else _without(reads, rest)


def _no_words(words: Sequence[Word]) -> bool:
    return not words


PROGRAMS: Mapping[str, Reads] = {
    **dict.fromkeys(
        (
            "ls cat tac head tail wc nl rev cut paste tr fold fmt expand unexpand column comm join cmp echo "
            "true false : pwd cd which type whoami id groups uname uptime nproc arch tty printenv cal "
            "md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum base32 od "
            "hexdump hd strings stat du df basename dirname realpath readlink seq sleep expr factor numfmt "
            "tsort grep egrep fgrep ps pgrep pidof free lscpu lsblk getconf users exit return break "
            "continue shift times vdir dir"
        ).split(),
        _ANY,
    ),
    "base64": Reads(letters="o", options=("output",)),
    "date": Reads(check=_date),
    "diff": Reads(letters="l", options=("paginate",)),
    "file": Reads(letters="CzZ", options=("compile", "uncompress", "uncompress-noreport")),
    "find": Reads(check=_without_words("-exec", "-ok", "-delete", "-fprint", "-fls")),
    "hostname": Reads(check=_no_words),
    "iconv": Reads(letters="o", options=("output",)),
    "jq": Reads(options=("in-place",)),
    "printf": Reads(check=_printf),
    "rg": Reads(letters="z", options=("pre", "pre-glob", "hostname-bin", "search-zip")),
    "sed": Reads(check=_sed),
    "set": Reads(check=_set),
    "shuf": Reads(letters="o", options=("output",)),
    "sort": Reads(letters="oT", options=("output", "compress-program", "temporary-directory")),
    "test": Reads(check=_test),
    "[": Reads(check=_test),
    "tree": Reads(letters="oR", options=("output",)),
    "uniq": Reads(operands_max=1),
    "xxd": Reads(letters="r", options=("revert",), operands_max=1),
}
