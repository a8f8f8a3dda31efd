"""`custody token`: made, shown once, listed without being told, and ended; each on the record."""

import json
import stat
from typing import Any

from tests.cli.conftest import Program


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


def test_the_daemons_token_is_not_on_the_record_even_where_a_command_prints_it(custody: Program):
    custody("token", "renew")
    file = custody.store / "keys" / "serve.token"
    token = file.read_text().strip()
    (custody.work / "copy").write_text(token)
    assert token in custody("exec", "--", "cat", "copy").out
    (call,) = custody("calls", "--all", "--json").json["items"]
    assert token not in json.dumps(call)
    assert "[redacted:" in json.dumps(call["result"])
