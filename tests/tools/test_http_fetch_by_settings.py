"""`http_fetch` as it comes with a store: what it may reach is what the settings let a command reach."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.settings_for_tests import NEVER_SHORT
from tests.tools.http_servers import Server, answer, failed, succeeded

import custody
from custody.records import Call

Fetch = Callable[[str], Call]
Set = Callable[[str], None]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.answers["/"] = answer(b"here")
    yield server
    server.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Of the user, whose own they are alone."""
    file = tmp_path / "config" / "custody" / "custody.toml"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (file.parent / "policy.toml").write_text('default = "allow"\n')

    def write(text: str) -> None:
        file.write_text(f"{NEVER_SHORT}{text}\n")

    write("")
    return write


@pytest.fixture
def fetch(work: Path, settings: Set) -> Fetch:
    """A call of an agent, with the settings as they are then."""

    def call(url: str) -> Call:
        with custody.open(":memory:", cwd=str(work)) as runtime:
            return runtime.call("http_fetch", {"url": url})

    return call


def hosts(*listed: str) -> str:
    return f"[sandbox]\nhosts = [{', '.join(f'{host!r}' for host in listed)}]"


def test_an_agent_reaches_what_is_listed_and_is_told_the_line_for_what_is_not(fetch, settings, server):
    said = failed(fetch(server.url))
    assert server.requests == []
    settings(said[said.index("[sandbox]") :].replace("[sandbox] ", "[sandbox]\n").rstrip("."))
    assert succeeded(fetch(server.url))["body"] == "here"


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were asked of a name server, which has every one of them within a private network."""
    names: list[str] = []

    def resolve(host: str, port: int, *_options: Any, **_named: Any) -> list[Any]:
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


def test_with_a_list_a_name_that_is_not_on_it_is_not_looked_up(fetch, settings, looked_up):
    settings(hosts("example.org"))
    said = failed(fetch("http://service.test:8080/"))
    assert "service.test:8080 is not on the list of hosts" in said
    assert '[sandbox] hosts = ["service.test:8080"]' in said
    assert looked_up == []
    assert "leads to 10.0.0.1" in failed(fetch("http://example.org/"))
    assert looked_up == ["example.org"]


@pytest.mark.parametrize("said", ['level = "process"', 'sandbox = "network"', 'sandbox = "open"'])
def test_where_commands_reach_every_host_so_does_it_but_none_of_the_inside(
    fetch, settings, server, looked_up, said
):
    settings(f"[calls]\n{said}")
    assert "leads to 10.0.0.1" in failed(fetch("http://service.test/"))
    assert looked_up == ["service.test"]
    assert "this machine itself" in failed(fetch(server.url))
    assert server.requests == []
    settings(f"[calls]\n{said}\n{hosts(server.place)}")
    assert succeeded(fetch(server.url))["body"] == "here"


def test_where_commands_have_no_network_it_reaches_nothing_listed_or_not(fetch, settings, server):
    settings(f'[calls]\nsandbox = "read_only"\n{hosts(server.place)}')
    assert fetch(server.url).outcome == "failed"
    assert server.requests == []


def test_a_remote_that_is_inside_is_not_reached_for_being_a_remote(fetch, work, server):
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    subprocess.run(["git", "remote", "add", "origin", f"{server.url}/x.git"], cwd=work, check=True)
    assert fetch(server.url).outcome == "failed"
    assert server.requests == []


def test_a_project_can_list_no_hosts(fetch, work, settings, server):
    (work / "custody.toml").write_text(hosts(server.place))
    with pytest.raises(custody.CustodyError):
        fetch(server.url)
    assert server.requests == []
