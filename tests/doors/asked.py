"""A served store in which two agents did something, with a token for each kind of asker.

Used through the fixture `stage`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from tests.doors.serving import Served, serving_in_thread
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.doors.server.app import DoorBounds
from custody.doors.server.checks import Callers
from custody.index import Index
from custody.journal import MemoryDisk
from custody.rpc.access import TokenDoor
from custody.rpc.tokens import Tokens

PAGE = "https://console.example"
ROLES = ("agent", "operator", "auditor", "host")


class Stage:
    """A served store with what two agents did, and a token for each kind of asker."""

    def __init__(self, served: Served, tokens: dict[str, str], store: str) -> None:
        self.served = served
        self.tokens = tokens
        self.index: Index = served.door.runtime.index
        runs = {run.agent: run for run in self.index.runs().items}
        self.ada, self.bob = runs["ada"], runs["bob"]
        self.store = store
        self.client = httpx.Client(base_url=served.url, timeout=20)
        self.session = requests.Session()

    def get(self, path: str, token: str | None = "auditor", **options: Any) -> httpx.Response:
        return self.client.get(path, headers=self.headers(token), **options)

    def headers(self, token: str | None) -> dict[str, str]:
        return {} if token is None else {"Authorization": f"Bearer {self.tokens[token]}"}

    def ids(self, path: str, token: str | None = "auditor") -> list[str]:
        return [item["id"] for item in self.answer(path, token)["items"]]

    def answer(self, path: str, token: str | None = "auditor") -> Any:
        response = self.get(path, token)
        assert response.status_code == 200, response.text
        return response.json()


def refusal(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of a refusal, whose form is always the same."""
    (name,) = response.json()
    assert name == "error"
    error = response.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    return response.status_code, error["code"]


@contextmanager
def staged(folder: Path) -> Generator[Stage]:
    store = str(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        never_short_of_resources(folder / "config")
        patch.chdir(folder)
        (folder / "note.txt").write_text("hello\n")
        act(store)
        tokens = Tokens(MemoryDisk())
        made = {role: token_of(tokens, f"an-{role}", role) for role in ROLES}
        made |= {"ada": token_of(tokens, "ada", "agent", "ada"), "nobody": "not-a-token"}
        made["methods"], _ = tokens.create("some", print, role="auditor", methods=["audit.runs"])
        options = {
            "doorkeeper": TokenDoor(tokens.known),
            "callers": Callers.of([], [PAGE]),
            "bounds": DoorBounds(requests_per_second=1e6),
        }
        with serving_in_thread(store, **options) as served:
            stage = Stage(served, made, store)
            yield stage
            stage.client.close()
            stage.session.close()


def token_of(tokens: Tokens, name: str, role: Any, agent: str | None = None) -> str:
    return tokens.create(name, lambda name, data: None, role=role, agent=agent)[0]


def act(store: str) -> None:
    """Ada reads twice, one of them wrong; Bob reads once; somebody reads in no run."""
    with custody.open(store) as runtime:
        with runtime.run("read a note", agent="ada", name="notes") as run:
            run.call("file_read", {"path": "note.txt"})
            run.call("file_read", {"path": "missing.txt"})
            run.step(model="claude", text="hello")
        with runtime.run("the same", agent="bob") as run:
            run.call("file_read", {"path": "note.txt"})
        runtime.call("file_read", {"path": "note.txt"})
