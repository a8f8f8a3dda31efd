"""A command in the sandbox `workspace`, as somebody types it: it reaches the hosts that are listed, and no
other."""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator

import pytest
from tests.cli.conftest import CALM
from tests.cli.persons import Person, person
from tests.sandbox.egress.test_clients import needs_curl, tarball, wheel
from tests.sandbox.places import SYSTEM_PYTHON, WHO_ELSE
from tests.tools.http_servers import Server, answer

AT_ONCE_US = 20_000_000
"""Whoever waited would do so until the command is ended, after 30 s."""

PATIENT = ("--timeout", "50")
"""A package manager takes seconds, and many more on a busy machine."""

ANOTHER_OF_THIS_MACHINE = ("[sandbox]", 'hosts = ["127.0.0.1:9"]')
"""Where none of its addresses is listed, the command's 127.0.0.1 is its own, and nobody asks the proxy."""

US = "root" if os.getuid() == 0 else "ordinary user"
ADVICE = re.compile(r"custody: refused: (\S+) .*Allow it in the settings: (\[sandbox\]) (hosts = \[.*\])")


@pytest.fixture(params=["root", WHO_ELSE])
def custody(request: pytest.FixtureRequest) -> Iterator[Person]:
    yield from person(request.param)


@pytest.fixture
def mine() -> Iterator[Person]:
    """Of whoever runs the tests."""
    yield from person(US)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def last(custody: Person):
    return custody("calls", "--limit", "1", "--json").json["items"][0]


def lists(custody: Person, *lines: str) -> None:
    custody.settings.write_text("\n".join((CALM, *lines)))


def as_it_says(custody: Person, said: str, refused: str) -> None:
    """Write into the settings the line that was said, as it was said."""
    lines = {found[1]: found.group(2, 3) for found in ADVICE.finditer(said)}
    lists(custody, *lines[refused])


# -- hosts that are not listed --------------------------------------------------------------------------


@needs_curl
@pytest.mark.parametrize(
    ("scheme", "port", "option", "code"), [("http", 80, "-sSf", 22), ("https", 443, "-sS", 56)]
)
def test_curl_to_a_host_that_is_not_listed_ends_at_once_as_curl_does_and_the_line_is_said(
    mine, scheme, port, option, code
):
    ran = mine("exec", "--sandbox", "workspace", "--", "curl", option, f"{scheme}://evil.example/")
    line = 'Allow it in the settings: [sandbox] hosts = ["evil.example"]'
    assert (ran.code, ran.out) == (code, "")
    assert f"custody: refused: evil.example:{port} " in ran.err and line in ran.err
    call = last(mine)
    assert (call["outcome"], call["exit_code"]) == ("failed", code)
    assert call["latency_us"] < AT_ONCE_US
    assert call["result"]["refused_hosts"].keys() == {f"evil.example:{port}"}
    assert line in mine("show", call["id"], COLUMNS="200").out


@needs_curl
@pytest.mark.long
def test_what_is_said_of_a_refused_address_lets_it_through_once_it_stands_in_the_settings(custody, server):
    lists(custody, *ANOTHER_OF_THIS_MACHINE)
    server.answers["/a"] = answer(b"here")
    curl = ("exec", "--sandbox", "workspace", "--", "curl", "-sSf", f"http://{server.place}/a")
    refused = custody(*curl)
    assert (refused.code, server.requests) == (22, [])
    as_it_says(custody, refused.err, server.place)
    ran = custody(*curl)
    assert (ran.code, ran.out, ran.err) == (0, "here", "")
    assert len(server.requests) == 1


@needs_curl
@pytest.mark.long
def test_without_the_proxy_there_is_no_way_out_and_a_listed_port_is_no_other_port(mine, server):
    other = Server()
    lists(mine, "[sandbox]", f'hosts = ["{server.place}"]')
    try:
        past = mine("exec", "--sandbox", "workspace", "--", "curl", "-sS", "--noproxy", "*", server.url)
        beside = mine("exec", "--sandbox", "workspace", "--", "curl", "-sSf", other.url)
        none = mine("exec", "--sandbox", "read_only", "--", "curl", "-sSf", server.url)
        direct = mine("exec", "--sandbox", "network", "--", "curl", "-s", "-o", "/dev/null", other.url)
    finally:
        other.close()
    assert (past.code, none.code) == (7, 7), (past, none)
    assert beside.code == 22 and f"custody: refused: {other.place} " in beside.err
    assert direct.code == 0
    assert (len(server.requests), len(other.requests)) == (0, 1)


# -- package managers -----------------------------------------------------------------------------------


@pytest.mark.long
def test_pip_installs_from_a_registry_on_this_machine_once_it_is_listed(custody, server):
    python = python_with_pip(custody)
    name, data = "small_package-1.0-py3-none-any.whl", wheel()
    link = f'<a href="/files/{name}#sha256={hashlib.sha256(data).hexdigest()}">{name}</a>'
    server.answers["/simple/small-package/"] = answer(link.encode(), "Content-Type: text/html")
    server.answers[f"/files/{name}"] = answer(data, "Content-Type: application/zip")
    words = (
        *python, "-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", "--retries", "0",
        "--index-url", f"{server.url}/simple/", "--target", "installed", "small-package",
    )  # fmt: skip
    installs(custody, server, words)
    assert (custody.work / "installed" / "small_package" / "__init__.py").read_text() == "ANSWER = 42\n"


def python_with_pip(custody: Person) -> list[str]:
    """An interpreter that is there within the walls, with pip."""
    for python in (SYSTEM_PYTHON, os.path.realpath(sys.executable)):
        ran = custody("exec", "--sandbox", "workspace", "--", python, "-I", "-m", "pip", "--version")
        if ran.code == 0:
            return [python, "-I"]
    pytest.skip(f"no Python behind the walls has pip: {ran.err.strip()[-200:]}")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_installs_from_a_registry_on_this_machine_once_it_is_listed(custody, server):
    if custody("exec", "--sandbox", "workspace", "--", "npm", "--version").code != 0:
        pytest.skip("npm is not where commands behind the walls see it")
    packages(server)
    (custody.work / "package.json").write_text("{}")
    custody.give()
    installs(custody, server, npm(server))
    installed = custody.work / "node_modules" / "small-package" / "index.js"
    assert installed.read_text() == "module.exports = 42\n"
    assert installed.stat().st_uid == custody.uid


def packages(server: Server) -> None:
    """A registry of npm with one package."""
    packed, path = tarball(), "/small-package/-/small-package-1.0.0.tgz"
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    dist = {"tarball": f"{server.url}{path}", "integrity": integrity}
    version = {"name": "small-package", "version": "1.0.0", "dist": dist}
    about = {"name": "small-package", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    server.answers["/small-package"] = answer(json.dumps(about).encode(), "Content-Type: application/json")
    server.answers[path] = answer(packed, "Content-Type: application/octet-stream")


def npm(server: Server) -> tuple[str, ...]:
    return (
        "npm", "install", "small-package", "--no-audit", "--no-fund", "--no-update-notifier",
        "--fetch-retries=0", f"--registry={server.url}/",
    )  # fmt: skip


def installs(custody: Person, server: Server, words: tuple[str, ...]) -> None:
    """Refused at first, with the line; with that line in the settings it works."""
    lists(custody, *ANOTHER_OF_THIS_MACHINE)
    before = sorted(os.listdir(custody.work))
    refused = custody("exec", *PATIENT, "--sandbox", "workspace", "--", *words)
    assert refused.code not in (0, 125), refused.err
    assert (server.requests, sorted(os.listdir(custody.work))) == ([], before)
    as_it_says(custody, refused.err, server.place)
    ran = custody("exec", *PATIENT, "--sandbox", "workspace", "--", *words)
    assert ran.code == 0, ran.out + ran.err
    assert "custody: refused" not in ran.err
    assert len(server.requests) >= 2


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_what_npm_installs_as_a_transaction_is_there_after_the_commit_alone(mine, server):
    packages(server)
    (mine.work / "package.json").write_text("{}")
    lists(mine, "[sandbox]", f'hosts = ["{server.place}"]')
    ran = mine("exec", *PATIENT, "--level", "transaction", "--", *npm(server))
    if "npm: not found" in ran.err:
        pytest.skip("npm is not where commands behind the walls see it")
    assert ran.code == 0, ran.err
    assert os.listdir(mine.work) == ["package.json"]
    assert mine("commit", "--yes").code == 0
    assert (mine.work / "node_modules" / "small-package" / "index.js").exists()
    assert "small-package" in (mine.work / "package.json").read_text()
    assert mine("undo", last_of(mine, "exec")).code == 0
    assert (os.listdir(mine.work), (mine.work / "package.json").read_text()) == (["package.json"], "{}")


def last_of(custody: Person, tool: str) -> str:
    return custody("calls", "--tool", tool, "--limit", "1", "--json").json["items"][0]["id"]
