"""Programs that start other programs, and how they are told which.

Owns the options of each that stand in front of the other program. An option it does not know makes the line
one that cannot be told. Used by the reader, which reads what is found here in turn.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from custody.policy.shell.line import UNKNOWN, Program, Redirect, Word, literal


class Started(Struct, frozen=True, kw_only=True):
    """What a program starts or sets."""

    commands: tuple[tuple[Word, ...], ...] = ()
    """Programs with their arguments."""
    lines: tuple[str, ...] = ()
    """Texts that a shell reads."""
    why: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    moves: bool = False


class Options(Struct, frozen=True, kw_only=True):
    """What may stand between a program's name and its first operand."""

    flags: str = ""
    """Letters without a value."""
    values: str = ""
    """Letters with one."""
    long_flags: tuple[str, ...] = ()
    long_values: tuple[str, ...] = ()
    numbers: bool = False
    """`-10` is an option (`nice`)."""
    operands: int = 0
    """Operands of its own in front of the other program."""
    assignments: bool = False
    """`NAME=value` in front of the other program sets a variable."""
    harmless: bool = True
    """It does nothing but start the other program, in the way it would start anyway."""


WRAPPERS: Mapping[str, Options] = {
    "builtin": Options(),
    "chroot": Options(long_values=("userspec", "groups"), operands=1, harmless=False),
    "command": Options(flags="p"),
    "doas": Options(flags="nLs", values="uC", harmless=False),
    "env": Options(
        flags="i0v", values="u", long_flags=("ignore-environment", "null", "debug"), long_values=("unset",),
        assignments=True,
    ),
    "exec": Options(flags="cl", values="a"),
    "fakeroot": Options(harmless=False),
    "flock": Options(
        flags="sxeunoF", values="wE", long_flags=("shared", "exclusive", "nonblock", "no-fork"),
        long_values=("timeout",), operands=1, harmless=False,
    ),
    "ionice": Options(flags="t", values="cn"),
    "nice": Options(values="n", long_values=("adjustment",), numbers=True),
    "nohup": Options(harmless=False),
    "pkexec": Options(long_flags=("keep-cwd",), long_values=("user",), harmless=False),
    "setsid": Options(flags="cfw", long_flags=("ctty", "fork", "wait"), harmless=False),
    "stdbuf": Options(values="ioe", long_values=("input", "output", "error")),
    "sudo": Options(
        flags="EHnSkKbPBA", values="ughpCTURDrt", long_flags=("preserve-env", "non-interactive", "stdin"),
        long_values=("user", "group", "host", "prompt", "chdir"), assignments=True, harmless=False,
    ),
    "time": Options(flags="pv"),
    "timeout": Options(
        flags="v", values="ks", long_flags=("foreground", "preserve-status", "verbose"),
        long_values=("kill-after", "signal"), operands=1,
    ),
    "xargs": Options(
        flags="0rtpxo", values="nLPsdEaI", long_flags=("null", "no-run-if-empty", "verbose", "exit"),
        long_values=("max-args", "max-procs", "max-lines", "delimiter", "arg-file", "max-chars"),
    ),
}  # fmt: skip
LOOSE_WRAPPERS = frozenset(
    (
        "aa-exec bwrap caffeinate cgexec chpst chronic chrt daemonize dbus-run-session dumb-init "
        "eatmydata entr fakechroot faketime firejail gdb gosu lldb ltrace nsenter numactl parallel perf "
        "prlimit proot proxychains proxychains4 rlwrap runcon runuser scl screen setarch setpriv "
        "setuidgid softlimit ssh-agent start-stop-daemon strace su-exec systemd-inhibit systemd-run "
        "taskset tini tmux torify torsocks tsocks unbuffer unshare valgrind xvfb-run "
    ).split()
)
"""They start others behind more options than stand here: the first word that is none is taken, and noted."""
SHELLS = frozenset("sh bash dash zsh ksh ksh93 mksh ash rbash fish csh tcsh yash posh".split())
INTERPRETERS: Mapping[str, str] = {
    "python": "c", "pypy": "c", "perl": "eE", "ruby": "e", "node": "ep", "nodejs": "ep", "bun": "e",
    "deno": "e", "php": "rBRE", "lua": "e", "luajit": "e", "tclsh": "", "expect": "c", "osascript": "e",
    "Rscript": "e", "julia": "eE", "guile": "c", "emacs": "", "ghci": "e", "jshell": "", "groovy": "e",
    "scala": "e", "pwsh": "c", "vim": "c", "nvim": "c", "vi": "c", "ex": "c", "ed": "", "sqlite3": "",
}  # fmt: skip
"""-> letters of the options whose value is a program."""
_AWKS = frozenset("awk gawk mawk nawk original-awk".split())
_AWK_STARTS = re.compile(r"system|getline|[|>@]|-f|ENVIRON")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=", re.ASCII)
_SED_SCRIPT = re.compile(
    r"(?:[0-9$]+(?:,[0-9$+]+)?|/[^/\\]*/(?:,/[^/\\]*/)?)?!?(?:[pdq=]|s([/|,#:])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpIi0-9]*)"
    r"(?:;(?:[0-9$]+(?:,[0-9$+]+)?)?[pdq=])*",
    re.DOTALL,
)
_GIT_STARTERS = frozenset(
    {
        ("bisect", "run"),
        ("submodule", "foreach"),
        ("filter-branch", None),
        ("difftool", None),
        ("mergetool", None),
    }
)


def started_by(program: Program) -> Started:
    """What this program starts; nothing for one that is not known to start any."""
    name = program.name or ""
    words = program.words
    if name in SHELLS:
        return _shell(words)
    if name in WRAPPERS:
        return _wrapped(name, words)
    if name in LOOSE_WRAPPERS:
        rest = _first_operand(words)
        return Started(commands=(rest,) if rest else (), why=("wrapper",))
    special = _SPECIAL.get(name)
    if special is not None:
        return special(words)
    stem = name.rstrip("0123456789.")
    if name in _AWKS:
        return _awk(words)
    return _interpreter(INTERPRETERS[stem], words) if stem in INTERPRETERS else Started()


def simple_sed_script(text: str) -> bool:
    """A script that prints, deletes or substitutes and can neither run a program nor write a file."""
    return _SED_SCRIPT.fullmatch(text) is not None


# -- wrappers -------------------------------------------------------------------------------------------


def after_options(options: Options, words: Sequence[Word]) -> int | None:
    """The index of the first operand; None where an option is not known or may be one."""
    at = 0
    while at < len(words):
        word = words[at]
        if word.text is None:
            return at if word.no_option else None
        if word.text == "--":
            return at + 1
        if not word.text.startswith("-") or word.text == "-":
            return at
        width = _width(options, word.text)
        if width is None:
            return None
        at += width
    return at


def _width(options: Options, text: str) -> int | None:
    """How many words this option takes, itself included."""
    if text.startswith("--"):
        name, equals, _ = text[2:].partition("=")
        if name in options.long_values:
            return 1 if equals else 2
        return 1 if name in options.long_flags else None
    if options.numbers and text[1:].isdigit():
        return 1
    for place, letter in enumerate(text[1:], 2):
        if letter in options.values:
            return 2 if place == len(text) else 1
        if letter not in options.flags:
            return None
    return 1


def _wrapped(name: str, words: Sequence[Word]) -> Started:
    options = WRAPPERS[name]
    if name == "command" and words and words[0].text in ("-v", "-V"):
        return Started()
    at = after_options(options, words)
    if at is None:
        rest = _first_operand(words)
        return Started(commands=(rest,) if rest else (), why=("option of a wrapper",))
    assignments: list[str] = []
    if options.assignments:
        at, assignments = _assigned(words, at)
    rest = tuple(words[at + options.operands :])
    if any(word.text is None and not word.single for word in words[: at + options.operands + 1]):
        return Started(commands=(rest,) if rest else (), why=("wrapper",), assignments=tuple(assignments))
    if name == "flock" and rest and rest[0].text == "-c":
        return _lines(rest[1:2])
    if name == "xargs":
        rest = _with_input(words[:at], rest)
    return Started(commands=(rest,) if rest else (), assignments=tuple(assignments))


def _assigned(words: Sequence[Word], at: int) -> tuple[int, list[str]]:
    names: list[str] = []
    while at < len(words):
        text = words[at].text
        found = _ASSIGNED.match(words[at].prefix if text is None else text)
        if found is None and (text is None or "=" not in text):
            break
        names.append(found[1] if found else words[at].known.partition("=")[0])
        at += 1
    return at, names


def _with_input(options: Sequence[Word], rest: tuple[Word, ...]) -> tuple[Word, ...]:
    """The command of xargs with the words it reads: behind it, or in place of a mark."""
    mark = None
    for at, word in enumerate(options):
        text = word.text or ""
        if text.startswith("-I"):
            mark = text[2:] or (options[at + 1].text if at + 1 < len(options) else None) or ""
    if mark is None:
        return (*(rest or (literal("echo"),)), UNKNOWN)
    return replaced(rest, mark)


def replaced(words: Sequence[Word], mark: str) -> tuple[Word, ...]:
    """The words with what will stand in the place of `mark` unknown."""
    return tuple(
        Word(None, word.known, word.prefix.partition(mark)[0] if mark else "", word.single)
        if not mark or mark in word.known
        else word
        for word in words
    )


def _first_operand(words: Sequence[Word]) -> tuple[Word, ...]:
    """From the first word on that is no option and no number: where the other program likely stands."""
    for at, word in enumerate(words):
        if word.text is None or not re.match(r"-|[0-9]+[smhd]?\Z|\w+=", word.text):
            return tuple(words[at:])
    return ()


# -- shells ---------------------------------------------------------------------------------------------

_SHELL_OPTIONS = Options(
    flags="celuxnvfhmpbaksir", values="oO", long_flags=("login", "norc", "noprofile", "posix")
)


def _shell(words: Sequence[Word]) -> Started:
    at = after_options(_SHELL_OPTIONS, words)
    if at is None:
        return Started(why=("option of a shell",))
    asked = [word.text or "" for word in words[:at]]
    if not any(text.startswith("-") and not text.startswith("--") and "c" in text for text in asked):
        return Started(why=("script",))
    return _lines(words[at : at + 1])


def _lines(words: Sequence[Word]) -> Started:
    """Words that a shell reads as one line."""
    texts = [word.text for word in words]
    if not texts or any(text is None for text in texts):
        return Started(why=("text of a shell",))
    return Started(lines=(" ".join(text or "" for text in texts),))


def _eval(words: Sequence[Word]) -> Started:
    return _lines(words[1:] if words and words[0].text == "--" else words) if words else Started()


def _trap(words: Sequence[Word]) -> Started:
    operands = words[1:] if words and words[0].text == "--" else words
    if not operands or operands[0].text in ("-", "", "-l", "-p"):
        return Started()
    return _lines(operands[:1])


def _line_option(letters: str, why: tuple[str, ...]) -> Callable[[Sequence[Word]], Started]:
    """`su -c LINE`, `script -c LINE`: the option may stand anywhere and in a cluster."""

    def read(words: Sequence[Word]) -> Started:
        for at, word in enumerate(words):
            text = word.text or ""
            name, equals, value = text.partition("=")
            if name == "--command":
                found = _lines((literal(value),) if equals else words[at + 1 : at + 2])
            elif re.fullmatch(rf"-[{letters}]*c", text):
                found = _lines(words[at + 1 : at + 2])
            else:
                continue
            return Started(lines=found.lines, why=(*why, *found.why))
        return Started(why=(*why, "script"))

    return read


_WATCH_OPTIONS = Options(
    flags="bcdegptwx", values="nq", long_flags=("differences", "no-title", "color", "exec", "precise"),
    long_values=("interval",),
)  # fmt: skip


def _watch(words: Sequence[Word]) -> Started:
    at = after_options(_WATCH_OPTIONS, words)
    if at is None:
        return Started(commands=(_first_operand(words),), why=("option of a wrapper",))
    if any(re.fullmatch(r"-\w*x\w*|--exec", word.text or "") for word in words[:at]):
        return Started(commands=(tuple(words[at:]),))
    return _lines(words[at:])


# -- programs that start others with one of their options -----------------------------------------------


def _find(words: Sequence[Word]) -> Started:
    commands: list[tuple[Word, ...]] = []
    at = 0
    while at < len(words):
        if words[at].text in ("-exec", "-execdir", "-ok", "-okdir"):
            end = at + 1
            while end < len(words) and words[end].text not in (";", "+"):
                end += 1
            commands.append(replaced(words[at + 1 : end], "{}"))
            at = end
        at += 1
    return Started(commands=tuple(command for command in commands if command))


def _fd(words: Sequence[Word]) -> Started:
    for at, word in enumerate(words):
        if word.text in ("-x", "-X", "--exec", "--exec-batch"):
            return Started(commands=((*replaced(words[at + 1 :], "{"), UNKNOWN),), why=("wrapper",))
    return Started()


def _applet(words: Sequence[Word]) -> Started:
    return Started(commands=(tuple(words),)) if words else Started()


def _awk(words: Sequence[Word]) -> Started:
    starts = any(word.text is None or _AWK_STARTS.search(word.text) for word in words)
    return Started(why=("program of awk",) if starts else ())


def _sed(words: Sequence[Word]) -> Started:
    """The script is the first operand, or follows `-e`; any other text is a file that is read."""
    scripts: list[Word] = []
    at = 0
    while at < len(words):
        text = words[at].text
        if text is not None and re.fullmatch(r"-[nErsuz]*e|--expression", text):
            scripts += words[at + 1 : at + 2]
            at += 1
        elif text is not None and re.match(r"-[nErsuz]*f|--file|--expression=|-[nErsuz]*e.", text):
            return Started(why=("script of sed",))
        elif text is None or not text.startswith("-"):
            scripts += () if scripts else (words[at],)
        at += 1
    simple = all(word.text is not None and simple_sed_script(word.text) for word in scripts)
    return Started(why=() if simple else ("script of sed",))


def _interpreter(letters: str, words: Sequence[Word]) -> Started:
    """Program text among the options, or on standard input, can start anything."""
    inline = letters and any(
        re.match(rf"-[A-Za-z]*[{letters}]|--(?:eval|print|execute|run)|-$", word.text or "") for word in words
    )
    return Started(why=("program text",) if inline or not words else ())


def _git(words: Sequence[Word]) -> Started:
    texts = [word.text for word in words]
    operands = [text for text in texts if text is None or not text.startswith("-")]
    first, second = [*operands, None, None][:2]
    told = (first, second) not in _GIT_STARTERS and (first, None) not in _GIT_STARTERS
    for text in texts:
        if text is not None and re.match(
            r"-c|--config|--exec|-x|--upload-pack|--receive-pack|--ext-diff|--open-files|-O|ext::", text
        ):
            told = False
    return Started(why=() if told and (operands[:1] != [None]) else ("git starts others",))


def _tee(words: Sequence[Word]) -> Started:
    files = [word for word in words if word.text is None or not word.text.startswith("-")]
    return Started(redirects=tuple(Redirect(">", file) for file in files))


def _export(words: Sequence[Word]) -> Started:
    """`export X=1`, also `export X`, which hands on what was set before."""
    names: list[str] = []
    for word in words:
        found = re.match(r"[A-Za-z_]\w*", word.prefix)
        if found is not None:
            names.append(found[0])
    unknown = any((word.text is None and "=" not in word.prefix) or "[" in word.known for word in words)
    return Started(assignments=tuple(names), why=("variable",) if unknown else ())


def _subscript(*options: str) -> Callable[[Sequence[Word]], Started]:
    """`printf -v NAME`, `test -v NAME`: bash runs what stands in a subscript of the name."""

    def read(words: Sequence[Word]) -> Started:
        asked = any((word.text or "").startswith(options) for word in words)
        return Started(why=("subscript",) if asked else ())

    return read


def _jobs(words: Sequence[Word]) -> Started:
    return Started(commands=(tuple(words[1:]),)) if words and words[0].text == "-x" else Started()


def _unclear(why: str) -> Callable[[Sequence[Word]], Started]:
    return lambda _words: Started(why=(why,))


def _moving(_words: Sequence[Word]) -> Started:
    return Started(moves=True)


_SPECIAL: Mapping[str, Callable[[Sequence[Word]], Started]] = {
    ".": _unclear("script"), "source": _unclear("script"), "alias": _unclear("alias"),
    "hash": _unclear("hash"), "enable": _unclear("builtin"), "bind": _unclear("builtin"),
    "coproc": _unclear("coproc"), "crontab": _unclear("later"), "at": _unclear("later"),
    "batch": _unclear("later"), "ssh": _unclear("remote"), "rsh": _unclear("remote"),
    "mosh": _unclear("remote"),
    "docker": _unclear("remote"), "podman": _unclear("remote"), "kubectl": _unclear("remote"),
    "cd": _moving, "pushd": _moving, "popd": _moving,
    "eval": _eval, "trap": _trap, "watch": _watch,
    "su": _line_option("lmp", ("other user",)), "script": _line_option("aefqB", ()),
    "find": _find, "gfind": _find, "fd": _fd, "fdfind": _fd,
    "busybox": _applet, "toybox": _applet, "coreutils": _applet,
    "sed": _sed, "gsed": _sed, "git": _git, "tee": _tee,
    "export": _export, "readonly": _export, "declare": _export, "typeset": _export, "local": _export,
    "unset": _export, "read": _export, "let": _unclear("arithmetic"), "wait": _subscript("-p"),
    "printf": _subscript("-v"), "test": _subscript("-v", "-R"), "[": _subscript("-v", "-R"), "jobs": _jobs,
    "mapfile": _unclear("builtin"), "readarray": _unclear("builtin"), "compgen": _unclear("builtin"),
    "complete": _unclear("builtin"),
}  # fmt: skip
