"""Telling people elsewhere of a question: commands and webhooks that `[approvals] notify` names.

Owns their threads, their bounds, and the event about what did not arrive. Nobody waits for them: a question
that cannot be told is asked all the same. Knows nothing of how a question is answered, and tells no more than
the record holds. Used by `answers`.
"""

import contextlib
import functools
import http.client
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from custody.calls.questions import Question
from custody.errors import CustodyError, InvalidSetting
from custody.hosts import webhook_host
from custody.records import rfc3339

UNDELIVERED = "approvals.undelivered"

WAITING_MAX = 16
"""Questions on their way to one place; what is further behind is told too late to be answered."""

COMMAND_SECONDS = 10.0  # a push over a slow line takes some seconds; what takes longer hangs
WEBHOOK_SECONDS = 5.0  # for the whole of it, however the answer drips
STOP_SECONDS = 2.0
"""A program that ends does not wait longer for a place that does not answer."""

WORD_CHARACTERS_MAX = 200
"""Of what is put into one word of a command: it is for one line on a screen."""
ERROR_CHARACTERS_MAX = 200

PLACEHOLDERS = re.compile(r"\{(call|tool|reason)\}")

Record = Callable[[str, dict[str, Any]], None]
"""Puts an event with leaf data on the record. May raise CustodyError or OSError."""

log = logging.getLogger("custody")


class Notifier:
    """Tells every place of each question, each place in a thread of its own that begins with the first."""

    def __init__(self, find: Callable[[], Sequence[str | Sequence[str]]], record: Record) -> None:
        """`find` gives the places, which may change: commands (their words) and URLs of webhooks. Raises
        InvalidSetting."""
        self._find = find
        self._record = record
        self._specified: tuple[str | Sequence[str], ...] = ()
        self._places: list[_Place] = []
        self._before: list[_Place] = []
        """Told no more: what is on its way there may arrive."""
        self._pid = os.getpid()
        self._look()

    def _look(self) -> None:
        """See where people are told by now."""
        specified = tuple(self._find())
        forked = self._pid != os.getpid()
        if specified == self._specified and not forked:
            return
        places = [_place(number, one) for number, one in enumerate(specified, 1)]
        # In a forked child: threads and what waits are its parent's.
        self._before = [] if forked else [*self._before, *self._places]
        for place in self._before:
            place.stop()
        self._pid, self._specified, self._places = os.getpid(), specified, places

    def __bool__(self) -> bool:
        self._look()
        return bool(self._places)

    async def __call__(self, question: Question) -> None:
        """As `answers` has people told."""
        self.tell(said(question))

    def tell(self, question: Mapping[str, Any]) -> None:
        """Have a question told; returns at once. It is said as JSON, and `call`, `tool` and `reason` of it
        where the words of a command name them. All of it must be as the record has it."""
        self._look()
        mine = dict(question)
        for place in self._places:
            place.tell(mine, self._undelivered)

    def close(self, seconds: float = STOP_SECONDS) -> None:
        """What has not arrived by then is recorded as undelivered. Raises nothing."""
        if self._pid != os.getpid():
            return
        places = [*self._before, *self._places]
        for place in places:
            place.stop()
        deadline = time.monotonic() + seconds
        for place in places:
            for call in place.left(max(0.0, deadline - time.monotonic())):
                self._undelivered(place.name, call, "the program ended before it was told")

    def _undelivered(self, to: str, call: str | None, why: str) -> None:
        log.warning("A question could not be told to %s: %s. It is open all the same.", to, why)
        try:
            self._record(UNDELIVERED, {"to": to, "call_id": call, "error": why})
        except (CustodyError, OSError) as error:
            log.warning("That could not be recorded: %s", error)


class _Place:
    """One command or webhook."""

    def __init__(self, name: str, deliver: Callable[[Mapping[str, Any]], str | None]) -> None:
        self.name = name
        """What it is called in an event: words and paths may hold what nobody is to read."""
        self._deliver = deliver
        self._change = threading.Condition()
        self._waiting: deque[dict[str, Any]] = deque()
        self._current: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = self._over = False

    def tell(self, question: dict[str, Any], failed: Callable[[str, str | None, str], None]) -> None:
        with self._change:
            full = self._stopping or len(self._waiting) >= WAITING_MAX
            if not full:
                self._waiting.append(question)
                self._change.notify_all()
                self._start(failed)
        if full:
            failed(self.name, question.get("call"), "earlier ones were still on their way")

    def stop(self) -> None:
        with self._change:
            self._stopping = True
            self._change.notify_all()

    def left(self, seconds: float) -> list[str | None]:
        """Calls whose questions have not arrived `seconds` from now."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting and self._current is None, seconds)
            left = [*([] if self._current is None else [self._current]), *self._waiting]
            self._waiting.clear()
            self._over = True
            return [one.get("call") for one in left]

    def _start(self, failed: Callable[[str, str | None, str], None]) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, args=(failed,), name="custody-notify", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending, or the machine has no thread left: the next tries
            self._thread = None

    def _run(self, failed: Callable[[str, str | None, str], None]) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                question = self._current = self._waiting.popleft()
            try:
                why = self._deliver(question)
            except Exception as error:  # whatever is wrong there costs one telling
                why = str(getattr(error, "strerror", None) or type(error).__name__)
            if why is not None and not self._over:  # else the close has said so already
                failed(self.name, question.get("call"), why[:ERROR_CHARACTERS_MAX])
            with self._change:
                self._current = None
                self._change.notify_all()


def _place(number: int, specified: str | Sequence[str]) -> _Place:
    if isinstance(specified, str):
        host = webhook_host(specified)
        if host is None:
            raise InvalidSetting(
                f"Number {number} of [approvals] notify is no address of a webhook.",
                hint='Write "https://host/path" (http on 127.0.0.1), or the words of a command as a list.',
            )
        return _Place(f"webhook {number}: {host}", functools.partial(_post, specified))
    if not specified or not specified[0]:
        raise InvalidSetting(
            f"Number {number} of [approvals] notify is an empty command.",
            hint='Write its words: ["notify-send", "Custody", "{call}"].',
        )
    name = f"command {number}: {specified[0]}"
    return _Place(name, functools.partial(_hand_to, tuple(specified)))


def said(question: Question) -> dict[str, Any]:
    """What is told of a question."""
    return {
        "event": "approvals.asked",
        "call": question.call_id.hex(),
        "tool": question.tool,
        "effect": question.effect,
        "what": question.summary,
        "reason": question.reason,
        "rule": question.rule,
        "agent": question.agent,
        "session_id": question.session_id,
        "run_id": None if question.run_id is None else question.run_id.hex(),
        "asked_at": rfc3339(question.asked_at_us),
        "open_until": rfc3339(question.open_until_us),
    }


# -- a command ----------------------------------------------------------------------------------------------


def words_of(command: Sequence[str], question: Mapping[str, Any]) -> tuple[str, ...]:
    """The command with the question's words in place. The first word, which is run, is taken as it is."""

    def put(word: str) -> str:
        filled = PLACEHOLDERS.sub(lambda found: _one_word(question.get(found[1])), word)
        # What a tool or a rule is called must not become an option of somebody else's command.
        return f" {filled}" if filled.startswith("-") and not word.startswith("-") else filled

    return (command[0], *map(put, command[1:]))


def _one_word(value: Any) -> str:
    text = "" if value is None else str(value)
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= WORD_CHARACTERS_MAX else f"{shown[: WORD_CHARACTERS_MAX - 1]}…"


def _hand_to(command: Sequence[str], question: Mapping[str, Any]) -> str | None:
    """Run a command with the question as JSON on its standard input; why that did not succeed."""
    from custody.sandbox.handing import hand_to

    return hand_to(words_of(command, question), msgspec.json.encode(question) + b"\n", COMMAND_SECONDS)


# -- a webhook ----------------------------------------------------------------------------------------------


def _post(address: str, question: Mapping[str, Any]) -> str | None:
    """POST the question as JSON; why it was not taken. No redirect is followed: the address is the one that
    the settings name."""
    url = urlsplit(address)
    assert url.hostname is not None, "an address without a host was refused when it was read"
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(
            url.hostname, url.port, timeout=WEBHOOK_SECONDS, context=ssl.create_default_context()
        )
        if url.scheme == "https"
        else http.client.HTTPConnection(url.hostname, url.port, timeout=WEBHOOK_SECONDS)
    )
    ending = threading.Timer(WEBHOOK_SECONDS, _hang_up, [connection])
    ending.daemon = True
    ending.start()
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Content-Type": "application/json", "User-Agent": "custody", "Connection": "close"}
        connection.request("POST", path, msgspec.json.encode(question), headers)
        status = connection.getresponse().status
        return None if 200 <= status < 300 else f"it answered {status}"
    except TimeoutError:
        return f"it gave no answer within {WEBHOOK_SECONDS:g} s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not ending.is_alive():
            return f"it gave no answer within {WEBHOOK_SECONDS:g} s"
        return str(getattr(error, "strerror", None) or type(error).__name__)
    finally:
        ending.cancel()
        connection.close()


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """End what is under way, in another thread: each read alone is bounded, all of them together are not."""
    current = connection.sock
    if current is not None:
        with contextlib.suppress(OSError):
            current.shutdown(socket.SHUT_RDWR)
