"""`custody top`: runs, calls, questions, pressure and the record itself, live.

Owns the loop: look, draw, take a key. A question is answered as `custody approve` and `custody deny` do it:
by a person at a terminal that no recorded call has started, who has seen all a yes is bound to. Used by the
program alone.
"""

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from custody.cli.answering import answering, person_of, question_lines, shown_of_record
from custody.cli.approvals import token_option
from custody.cli.looking import load_with_warning
from custody.cli.options import Duration, json_option, store_option
from custody.errors import AnswerRefused, CustodyError, UsageError

if TYPE_CHECKING:
    from custody.calls.questions import Said
    from custody.cli.top_look import Look, Looker
    from custody.cli.top_screen import Screen
    from custody.journal.disk import Lock
    from custody.settings import Settings
    from custody.stores import View

INTERVAL_SECONDS = 1.0
INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX = 0.1, 3600.0

SETTLED_SECONDS = 0.5
"""After a question has gone and the next one stands in its place no key answers for so long: it was typed for
the one before."""

NO_ROOM = "There is no room to show that question: enlarge the terminal, or use custody approvals show {}."

KEYS = "y yes   n no   ↑ ↓ choose   q quit"


@click.command("top", epilog="Example:  custody top   (y and n answer; q ends)")
@click.option(
    "--interval", type=Duration(), metavar="TIME", default=INTERVAL_SECONDS, show_default="1s",
    help="Between two looks.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="One frame, and end.")
@token_option
@store_option
@json_option
def top_command(interval: float, once: bool, token: str | None, store: str | None, as_json: bool) -> int:
    """Watch runs, calls and questions, and answer with a key."""
    from custody.cli.top_look import Looker
    from custody.cli.view import opened

    if not INTERVAL_SECONDS_MIN <= interval <= INTERVAL_SECONDS_MAX:
        raise UsageError("--interval is 0.1 s at least, and an hour at most.", hint="Write 500ms, 1s, 2m.")
    settings = load_with_warning(store)
    with opened(settings) as view:
        looker = Looker(settings, view)
        if as_json:
            from custody.cli.document import print_document

            print_document(looker.look())
        elif once or not _is_live():
            _print_once(looker.look())
        else:
            _Live(settings, view, looker, interval, store, token).watch()
    return 0


def _is_live() -> bool:
    return os.isatty(1) and os.environ.get("TERM", "") not in ("", "dumb")


def _print_once(look: "Look") -> None:
    """For a script, or a terminal: nothing is cut but what a terminal is too narrow for."""
    from custody.cli.render import paint, width
    from custody.cli.top_frame import UNBOUNDED, frame

    for line in frame(look, width() or UNBOUNDED, UNBOUNDED):
        sys.stdout.write("".join(paint(text, style) for text, style in line).rstrip() + "\n")


class _Live:
    """One terminal that watches."""

    def __init__(
        self,
        settings: "Settings",
        view: "View",
        looker: "Looker",
        interval: float,
        store: str | None,
        token: str | None,
    ) -> None:
        self._settings = settings
        self._view = view
        self._looker = looker
        self._interval = interval
        self._store, self._token = store, token
        self._look: Look | None = None
        self._selected: str | None = None
        self._seen: str | None = None
        """Whose question stands on the screen as the chosen one: no key answers another."""
        self._settled_at = 0.0
        """When what is selected became so by itself; a key counts only some time after."""
        self._note = ""
        self._trouble = ""
        """Why the last look failed: what is shown is an older one."""
        self._lock: Lock | None = None
        self._listens = False
        self._why_not = ""

    def watch(self) -> None:
        """Until `q`, Ctrl-C or a signal."""
        from custody.cli.top_screen import Screen

        self._see_who_is_here()
        try:
            with Screen() as screen:
                self._loop(screen)
        except KeyboardInterrupt:
            pass  # the usual end of something that is watched
        finally:
            if self._lock is not None:
                self._lock.release()

    def _see_who_is_here(self) -> None:
        """Whether calls that ask may wait for whoever watches."""
        try:
            person_of(self._settings, self._view, self._token)
            self._listens = True
        except AnswerRefused as error:
            self._why_not = error.message

    def _loop(self, screen: "Screen") -> None:
        due = 0.0
        while True:
            if time.monotonic() >= due:
                self._look_again()
                due = time.monotonic() + self._interval
            self._draw(screen)
            key = screen.key(max(0.0, due - time.monotonic()))
            if key == "quit":
                return
            if key in ("up", "down"):
                self._move(1 if key == "down" else -1)
            elif key in ("yes", "no"):
                self._answer(screen, "allow" if key == "yes" else "deny")
                due = 0.0

    def _look_again(self) -> None:
        self._listen()
        try:
            self._look, self._trouble = self._looker.look(), ""
        except (CustodyError, OSError) as error:
            self._trouble = self._said_of(error)
            return
        asked = [question.call_id for question in self._look.questions]
        if self._selected not in asked:
            self._selected = asked[0] if asked else None
            self._settled_at = time.monotonic()

    def _said_of(self, error: CustodyError | OSError) -> str:
        """In a line, and what to do next."""
        from custody.cli.top_frame import clock

        since = "Nothing could be shown yet" if self._look is None else f"As of {clock(self._look.at)}"
        if not os.path.isdir(self._settings.store):
            return f"{since}: the store {self._settings.store} is not there any more; it is looked for again."
        if isinstance(error, CustodyError):
            return f"{since}: {error.message} {error.hint or ''}".rstrip()
        return f"{since}: the store cannot be read: {error.strerror or error}. It is tried again."

    def _listen(self) -> None:
        """While this runs somebody listens: calls that ask wait instead of being refused at once."""
        if not self._listens or self._lock is not None:
            return
        try:
            self._lock = self._view.journal.approver_lock()
        except OSError as error:
            self._listens, self._why_not = False, f"The store cannot be written: {error.strerror}."

    def _draw(self, screen: "Screen") -> None:
        from custody.cli.invocation import printable
        from custody.cli.top_frame import frame, shows_chosen, unread

        width, height = screen.size
        notes = [printable(note, keep="") for note in (self._trouble, self._note) if note]
        notes.append(KEYS if self._listens else f"q quit   {printable(self._why_not, keep='')}")
        if self._look is None:
            screen.draw(unread(notes, width)[:height])
            return
        lines = frame(self._look, width, height, selected=self._selected, notes=notes)
        self._seen = self._selected if shows_chosen(lines, self._selected) else None
        screen.draw(lines)

    def _move(self, by: int) -> None:
        asked = [question.call_id for question in self._look.questions] if self._look else []
        if self._selected in asked:
            place = asked.index(self._selected) + by
            self._selected = asked[min(max(place, 0), len(asked) - 1)]

    def _answer(self, screen: "Screen", verdict: "Said") -> None:
        if self._selected is None:
            self._note = "No question is open."
        elif self._selected != self._seen:
            self._note = NO_ROOM.format(self._selected[:8])
        elif time.monotonic() - self._settled_at < SETTLED_SECONDS:
            self._note = "That question has just come up: look, and press again."
        else:
            with screen.aside():
                try:
                    self._note = self._answered(self._selected, verdict)
                except CustodyError as error:
                    self._note = f"{error.message} {error.hint or ''}".strip()
                except OSError as error:
                    self._note = f"Nothing was answered: the store cannot be read: {error.strerror or error}."

    def _answered(self, call_id: str, verdict: "Said") -> str:
        """What became of it, in a line. Raises CustodyError."""
        from custody.calls.questions import answer_question
        from custody.cli.consent import says_yes

        short = call_id[:8]
        with answering(self._store, self._token, "approve" if verdict == "allow" else "deny") as who:
            means, person = who
            if verdict == "allow":
                sys.stderr.write("\n".join([*question_lines(shown_of_record(means.index, call_id)), ""]))
                if not says_yes("Allow exactly this, once?", "nothing was answered."):
                    return f"Nothing was answered: the question of call {short} is still open."
            answered = answer_question(means, call_id, verdict, person=person)
        if answered.verdict == "deny":
            return f"Denied: call {short}."
        goes_on = "goes on" if answered.waiting else "has ended; the same call passes when it is made again"
        return f"Allowed: call {short}, which {goes_on}."
