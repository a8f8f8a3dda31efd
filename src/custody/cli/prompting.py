"""A question put to whoever sits at this terminal, before a call may happen or a plan goes on.

Owns when somebody sits there, the terminal's mode while they answer, and what each answer means. What was
typed before the question was seen is no answer to it. Knows nothing of what becomes of an answer. Used by the
commands that make calls.
"""

import asyncio
import contextlib
import os
import sys
import termios
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from custody.cli.answering import at_terminal, person_here, question_lines, shown_of_call
from custody.cli.invocation import fold_lines, printable

if TYPE_CHECKING:
    from custody.calls.answers import Prompt
    from custody.calls.questions import Answer, Question, Said, Standing
    from custody.index import Index

LINE_BYTES_MAX = 4096  # a terminal gives no longer line
TRIES_MAX = 3  # whoever answers something else so often is not answering
REASON_CHARACTERS_MAX = 1_000  # as `custody deny --reason` takes them
CHOICE_SECONDS_MAX = 600.0
"""Nothing waits for a choice but the command: whoever left finds it ended, and says it again."""

INTERRUPT = b"\x03"  # what Ctrl-C types

Aside = Callable[[], contextlib.AbstractContextManager[None]]
"""Takes the keyboard from whoever has it, until it is left."""


def terminal_prompt(
    aside: Aside | None = None, open_index: "Callable[[], Index] | None" = None
) -> "Prompt | None":
    """What asks at our terminal; None where nobody sits at one, where others have its keys, and in what a
    recorded call has started: an agent can make itself a terminal, and would answer itself."""
    return _TerminalPrompt(aside or contextlib.nullcontext, open_index) if _somebody_sits_here() else None


def terminal_choice(aside: Aside, open_index: "Callable[[], Index]") -> "TerminalChoice | None":
    """What asks for one of a few words at our terminal; None where nobody is asked about calls either."""
    return TerminalChoice(aside, open_index) if _somebody_sits_here() else None


def _somebody_sits_here() -> bool:
    from custody.calls.descent import descent

    return at_terminal() and _in_foreground(0) and descent() is None


def _is_agents(open_index: "Callable[[], Index]") -> bool:
    """Whether an agent whose run is on the record has started us."""
    from custody.calls.descent import descent

    return descent(open_index()) is not None


class TerminalChoice:
    """One of a few words, for whoever sits here to say."""

    def __init__(self, aside: Aside, open_index: "Callable[[], Index]") -> None:
        self._aside = aside
        self._open_index = open_index

    async def __call__(self, shown: Sequence[str], ask: str, words: Mapping[str, str]) -> str | None:
        """What the word stands for that is typed below `shown`, in small letters; None for Enter, Ctrl-C,
        Ctrl-D, anything else said too often, and where it takes too long."""
        if await asyncio.to_thread(_is_agents, self._open_index):
            return None
        with self._aside(), _keyboard() as keyboard:
            if keyboard is None:
                return None
            _write("\n".join(["", *shown, ""]))
            try:
                async with asyncio.timeout(CHOICE_SECONDS_MAX):
                    for _ in range(TRIES_MAX):
                        _write(f"{ask} ")
                        said = await _line(keyboard)
                        if not said or said in words:
                            return words.get(said)
            except TimeoutError:
                _write("\n")
        return None


class _TerminalPrompt:
    """Asks one question at a time; the others wait for their turn."""

    def __init__(self, aside: Aside, open_index: "Callable[[], Index] | None") -> None:
        self._aside = aside
        self._open_index = open_index
        self._turn = asyncio.Lock()

    async def __call__(self, question: "Question") -> "Answer | None":
        if self._open_index is not None and await asyncio.to_thread(_is_agents, self._open_index):
            return None  # whoever answers elsewhere may still do so
        async with self._turn:
            with self._aside(), _keyboard() as keyboard:
                if keyboard is None:
                    return None
                _write("\n".join(["", *question_lines(shown_of_call(question)), ""]))
                try:
                    return await _answer(question, keyboard)
                except asyncio.CancelledError:  # answered elsewhere, or nobody did in time
                    _write("\n")
                    raise


async def _answer(question: "Question", keyboard: int) -> "Answer":
    from custody.calls.questions import Standing

    choices = "[y]es, once  [n]o  " + ("[a]lways exactly this  " if question.standing_allowed else "")
    for _ in range(TRIES_MAX):
        _write(f"Allow it? {choices}[r]eason for a no: ")
        said = await _line(keyboard)
        if said in ("y", "yes"):
            return _answered(question, "allow")
        if said in ("a", "always") and question.standing_allowed:
            return _answered(question, "allow", standing=Standing())
        if said in ("r", "reason"):
            _write("Why not? ")
            return _answered(question, "deny", await _line(keyboard, lower=False))
        if said in ("", "n", "no"):
            break
    return _answered(question, "deny")


def _answered(
    question: "Question", verdict: "Said", reason: str = "", *, standing: "Standing | None" = None
) -> "Answer":
    from custody.calls.questions import Answer

    return Answer(
        verdict=verdict,
        by="person",
        reason=reason,
        person=person_here(),
        call_id=question.call_id,
        digest=question.digest,
        session_id=question.session_id,
        rule=question.rule,
        standing=standing,
    )


async def _line(keyboard: int, *, lower: bool = True) -> str:
    """A line that is typed from now on; nothing for Ctrl-C, Ctrl-D and a terminal that is gone."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(keyboard, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
        data = os.read(keyboard, LINE_BYTES_MAX)
    except OSError:
        data = b""
    finally:
        loop.remove_reader(keyboard)
    if INTERRUPT in data or not data.endswith(b"\n"):
        _write("\n")
        return ""
    text = fold_lines(printable(data.decode("utf-8", "replace"), keep="\n"))[:REASON_CHARACTERS_MAX]
    return text.lower() if lower else text


@contextlib.contextmanager
def _keyboard() -> Generator[int | None]:
    """Our terminal, to read lines of; None where it cannot be had. What was typed before is thrown away."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a terminal that does not control us is one all the same
        descriptor = os.dup(0)
    try:
        mode = termios.tcgetattr(descriptor)
        if not _in_foreground(descriptor):  # to touch it would stop us
            yield None
            return
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, _line_mode(mode))
        try:
            yield descriptor
        finally:
            with contextlib.suppress(termios.error):  # the terminal is gone
                # Half an answer, when it was answered elsewhere, is not for the command that runs then.
                termios.tcsetattr(descriptor, termios.TCSAFLUSH, mode)
    except termios.error:
        yield None
    finally:
        os.close(descriptor)


def _line_mode(mode: list[Any]) -> list[Any]:
    """Lines that are echoed and can be corrected; Ctrl-C ends one instead of us, so that it is an answer."""
    input_flags, output_flags, control, local, in_speed, out_speed, characters = mode
    input_flags |= termios.ICRNL
    output_flags |= termios.OPOST | termios.ONLCR
    local = (local | termios.ICANON | termios.ECHO | termios.ECHOE) & ~termios.ISIG
    characters = list(characters)
    characters[termios.VEOL] = INTERRUPT
    return [input_flags, output_flags, control, local, in_speed, out_speed, characters]


def _in_foreground(terminal: int) -> bool:
    """Whether its keys are ours; where nobody controls jobs on it, they are whoever reads them."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


def _write(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()
