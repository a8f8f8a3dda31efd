"""People elsewhere are told of a question, and nobody waits for them."""

import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from custody.calls import notify
from custody.calls.notify import UNDELIVERED, Notifier, words_of
from custody.errors import InvalidSetting, NotRecorded

QUESTION = {"call": "c1", "tool": "git", "reason": "Pushes are looked at."}


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a machine that stands still for some seconds, what is told arrives all the same."""
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 60.0)
    monkeypatch.setattr(notify, "WEBHOOK_SECONDS", 60.0)


class Hook:
    """A webhook on loopback that answers with one status, and keeps what it was told."""

    def __init__(self, status: int) -> None:
        told = self.told = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?key=secret"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize(("status", "said"), [(204, []), (302, ["it answered 302"])])
def test_a_webhook_gets_it_once_and_no_redirect_is_followed(status, said):
    hook = Hook(status)
    events = []
    notifier = Notifier(lambda: [hook.url], lambda *event: events.append(event))
    notifier.tell(QUESTION)
    notifier.close(40)
    hook.close()

    assert hook.told == [("/hook?key=secret", QUESTION)]
    assert events == [
        (UNDELIVERED, {"to": "webhook 1: 127.0.0.1", "call_id": "c1", "error": error}) for error in said
    ]


def test_a_command_gets_it_on_its_standard_input_and_in_its_words(tmp_path):
    code = "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]) + sys.stdin.read()); sys.exit(3)"
    events = []
    notifier = Notifier(
        lambda: [
            [
                sys.executable,
                "-S",
                "-c",
                code,
                str(tmp_path / "told"),
                "{tool}: {reason}",
                "{call}",
                "{other}",
            ]
        ],
        lambda *event: events.append(event),
    )
    notifier.tell(QUESTION)
    notifier.close(40)

    told = (tmp_path / "told").read_text()
    assert told.startswith("['git: Pushes are looked at.', 'c1', '{other}']")
    assert json.loads(told.partition("]")[2]) == QUESTION
    assert events == [
        (UNDELIVERED, {"to": f"command 1: {sys.executable}", "call_id": "c1", "error": "exit code 3"})
    ]


def test_what_a_tool_is_called_is_no_option_and_no_line_of_a_command():
    odd = {"call": "c", "tool": "--exec=x", "reason": "{call}\x1b[2J\n" + "a" * 500}
    words = words_of(["say", "{tool}", "--of={tool}", "{reason}"], odd)

    assert words[:3] == ("say", " --exec=x", "--of=--exec=x")
    assert words[3].startswith("{call} [2J a") and len(words[3]) == 200 and words[3].isprintable()


def test_nobody_waits_for_a_place_that_does_not_answer_and_what_is_not_there_is_counted():
    entered, leave, events = threading.Event(), threading.Event(), []

    class Stuck(Hook):
        def __init__(self) -> None:
            super().__init__(200)
            handler = self.server.RequestHandlerClass
            answer = handler.do_POST

            def wait(self) -> None:
                entered.set()
                leave.wait(40)
                answer(self)

            handler.do_POST = wait

    hook = Stuck()
    try:
        notifier = Notifier(lambda: [hook.url], lambda *event: events.append(event[1]["error"]))
        for _ in range(18):
            notifier.tell(QUESTION)
            entered.wait(20)
        notifier.close(0)
        leave.set()
    finally:
        leave.set()
        hook.close()
    assert events == ["earlier ones were still on their way"] + 17 * ["the program ended before it was told"]


def test_what_cannot_be_recorded_of_it_disturbs_nobody():
    tried = queue.Queue[str]()

    def refuse(name: str, _data: Any) -> None:
        tried.put(name)
        raise NotRecorded

    notifier = Notifier(lambda: ["http://127.0.0.1:1/"], refuse)
    for _ in range(2):  # whoever tells of the first tells of the second
        notifier.tell(QUESTION)
        assert tried.get(timeout=20) == "approvals.undelivered"
    notifier.close(40)


def test_a_place_that_is_named_later_is_told_and_one_that_is_not_any_more_is_not():
    events: queue.Queue[tuple[str, str]] = queue.Queue()
    places = [["/nowhere/first"]]
    notifier = Notifier(lambda: places, lambda name, data: events.put((name, data["to"])))
    notifier.tell(QUESTION)
    assert events.get(timeout=20)[1] == "command 1: /nowhere/first"
    places[:] = [["/nowhere/second"]]
    notifier.tell(QUESTION)
    assert events.get(timeout=20)[1] == "command 1: /nowhere/second"
    places.clear()
    assert not notifier
    notifier.close(40)
    assert events.empty()


@pytest.mark.parametrize(
    "place", ["", "ftp://host/", "http://", "https://h:0/", "https://h:x/", "http://hooks.example/", [], [""]]
)
def test_a_place_that_is_none_is_refused_when_it_is_read(place):
    with pytest.raises(InvalidSetting, match="Number 1 of"):
        Notifier(lambda: [place], lambda *_: None)
    assert not Notifier(list, lambda *_: None)
