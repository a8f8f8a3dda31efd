"""`custody token`: made, shown once, listed without being told, and ended; each on the record."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program

from custody import open as open_store
from custody.cli.program import run


def token_events(custody: Program) -> list[dict[str, Any]]:
    lines = custody("tail", "--json").out.splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if (record.get("name") or "").startswith("token.")]


def test_a_token_is_printed_once_and_kept_as_its_digest(custody: Program):
    made = custody(
        "token", "create", "ada", "--agent", "ada", "--tools", "echo, file_read", "--expires", "2h"
    )
    token = made.out.strip()
    assert (made.code, len(token)) == (0, 43)
    file = custody.store / "keys" / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    (item,) = custody("token", "list", "--json").json["items"]
    assert (item["name"], item["role"], item["agent"], item["tools"]) == (
        "ada", "agent", "ada", ["echo", "file_read"],
    )  # fmt: skip
    assert not item["expired"]
    assert token not in custody("token", "list").out
    assert custody("verify").code == 0


def test_what_was_done_with_tokens_is_on_the_record_for_ever(custody: Program):
    first = custody("token", "create", "ada", "--role", "auditor", "--json").json
    custody("token", "revoke", "ada")
    custody("token", "renew")
    created, revoked, renewed = token_events(custody)
    assert (created["name"], created["data"]["role"]) == ("token.created", "auditor")
    assert (revoked["name"], revoked["data"]) == (
        "token.revoked", {"name": "ada", "fingerprint": first["fingerprint"]},
    )  # fmt: skip
    assert renewed["name"] == "token.created"
    assert first["token"] not in json.dumps([created, revoked, renewed])
    assert custody("token", "list", "--json").json["items"] == []


def test_what_cannot_be_done_is_said(custody: Program):
    custody("token", "create", "ada")
    again = custody("token", "create", "ada", "--json")
    assert (again.code, again.json["error"]["type"]) == (2, "UsageError")
    gone = custody("token", "revoke", "bob", "--json")
    assert (gone.code, gone.json["error"]["type"]) == (2, "NotFound")
    assert custody("token", "revoke", "serve", "--json").code == 2
    assert custody("token", "create", "x/y", "--json").code == 2
    assert custody("token", "create", "eve", "--role", "root", "--json").code == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--agent", ""], ["--agent", "a\nb"], ["--agent", "a" * 257], ["--tools", ""], ["--tools", ", ,"],
        ["--tools", "rm -rf"], ["--methods", "proposal.submitt"], ["--expires", "99999999999d"],
    ],
)  # fmt: skip
def test_a_token_that_nobody_can_have_meant_is_not_made(custody: Program, options: list[str]):
    """An empty variable in a script must not make a token for everybody."""
    made = custody("token", "create", "ada", *options, "--json")
    assert (made.code, set(made.json)) == (2, {"error"})
    assert "bug" not in made.json["error"]["message"]


def test_the_list_says_what_a_token_is_good_for(custody: Program):
    custody("token", "create", "ada", "--agent", "ada", "--tools", "echo", "--methods", "runs.list,state.get")
    row = custody("token", "list").out.splitlines()[1]
    assert re.split("  +", row) == ["ada", "agent", "ada", "echo", "runs.list, state.get", "never"]


def test_a_store_is_not_made_in_order_to_end_a_token(custody: Program):
    for words in (["revoke", "ada"], ["renew"]):
        ended = custody("token", *words, "--json", "--store", str(custody.work / "other"))
        assert (ended.code, ended.json["error"]["type"]) == (2, "StoreUnusable")
    assert not (custody.work / "other").exists()


def test_a_group_alone_shows_its_help(custody: Program):
    done = custody("token")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: custody token")


def test_the_daemons_token_is_not_on_the_record_even_where_a_command_prints_it(custody: Program):
    custody("init")
    custody("token", "renew")
    file = custody.store / "keys" / "serve.token"
    token = file.read_text().strip()
    (custody.work / "copy").write_text(token)
    assert token in custody("exec", "--", "cat", "copy").out
    (call,) = custody("calls", "--all", "--json").json["items"]
    assert token not in json.dumps(call)
    assert "[redacted:" in json.dumps(call["result"])


def test_an_agent_whose_run_is_open_makes_itself_no_token_that_answers(custody: Program):
    with custody.recording() as runtime, runtime.run("work") as run:
        made = [custody("token", "create", "eve", "--role", role) for role in ("operator", "host", "agent")]
        refused = [event.data for event in runtime.index.events().items if event.name == "approval.refused"]
    assert [ran.code for ran in made] == [3, 3, 0]
    assert "started by an agent whose run is on the record" in made[0].err
    assert refused == [{"what": "token create", "why": "agent", "by_run": run.id}] * 2


def test_where_an_agent_cannot_be_ruled_out_it_takes_an_operators_token_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As under a chain of processes longer than is followed: whoever hides behind it may be an agent."""

    def make(name: str, role: str, shown: str = "") -> tuple[int, str, str]:
        monkeypatch.setenv("CUSTODY_TOKEN", shown)
        code = run(["token", "create", name, "--role", role])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    store = tmp_path / "store"
    monkeypatch.setenv("CUSTODY_STORE", str(store))
    monkeypatch.setattr("custody.calls.descent.ANCESTORS_MAX", 1)
    code, operators, _ = make("kim", "operator")
    assert code == 0, "the first is made before the store is"
    code, agents, _ = make("ada", "agent")
    assert code == 0
    code, out, told = make("eve", "operator")
    assert (code, out) == (3, "") and "its parents cannot be told" in told
    assert [make("eve", role, agents)[0] for role in ("operator", "host")] == [3, 3]
    assert make("lee", "operator", operators)[0] == 0
    with open_store(str(store)) as runtime:
        refused = [event.data for event in runtime.index.events(name="approval.refused").items]
    assert [(one["what"], one["why"], one.get("token")) for one in refused] == [
        ("token create", "token", "ada"),
        ("token create", "token", "ada"),
        ("token create", "unclear", None),
    ]
