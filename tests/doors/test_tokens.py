"""Tokens: whom they admit, what is kept of them, and that one revoked is good for nothing."""

import hmac
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from custody.errors import InvalidInput, NotFound, NotRecorded, StoreError, UsageError
from custody.journal import Disk, MemoryDisk, RealDisk
from custody.rpc.access import ANYBODY, NOT_YET, Access, OpenDoor, TokenDoor
from custody.rpc.tokens import NAMED_TOKENS, SERVE_TOKEN, Tokens


@pytest.fixture(params=["memory", "folder"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(tmp_path / "store")


class Recorded:
    """Events in the order they were put on the record."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def test_the_daemons_own_token_is_made_once_and_kept(disk: Disk):
    token = Tokens(disk).ensure("serve")
    assert len(token) == 43
    assert Tokens(disk).ensure("serve") == token
    assert Tokens(disk).ensure("host") != token


def test_the_files_of_tokens_are_their_owners_alone(tmp_path: Path):
    tokens = Tokens(RealDisk(tmp_path / "store"))
    tokens.ensure("serve")
    tokens.create("ada", Recorded(), role="agent")
    for path in (SERVE_TOKEN, NAMED_TOKENS):
        assert stat.S_IMODE(os.stat(tmp_path / "store" / path).st_mode) == 0o600


def test_a_token_admits_whom_it_was_made_for(disk: Disk):
    tokens = Tokens(disk)
    token, _ = tokens.create(
        "ada", Recorded(), role="agent", agent="ada", tools=["echo"], methods=["state.get"]
    )
    found = TokenDoor(tokens.known).admit(token)
    assert found is not None
    assert (found.role, found.agent, found.tools, found.methods, found.name) == (
        "agent", "ada", frozenset({"echo"}), frozenset({"state.get"}), "ada",
    )  # fmt: skip


def test_what_is_kept_of_a_named_token_does_not_give_it_away(disk: Disk):
    recorded = Recorded()
    token, made = Tokens(disk).create("ada", recorded, role="auditor")
    kept = (disk.read_all(NAMED_TOKENS) or b"").decode()
    assert token not in kept
    assert token not in repr((recorded.events, made.shown()))
    assert made.digest not in repr((recorded.events, made.shown()))


@pytest.mark.parametrize("wrong", ["", " ", "x", "é" * 43, "\ud800", "a" * 100_000, "\0"])
def test_nothing_else_admits_anybody(disk: Disk, wrong: str):
    tokens = Tokens(disk)
    tokens.ensure("serve")
    door = TokenDoor(tokens.known)
    assert door.admit(wrong) is None
    assert door.admit_host(wrong) is None


def test_a_token_is_one_whole_text(disk: Disk):
    tokens = Tokens(disk)
    token = tokens.ensure("serve")
    door = TokenDoor(tokens.known)
    assert door.admit(token) is not None
    for near in (token[:-1], token + "x", token.swapcase(), f"{token}\n", f" {token}"):
        assert door.admit(near) is None


def test_only_a_hosts_token_makes_a_host(disk: Disk):
    tokens = Tokens(disk)
    agent, host = tokens.ensure("serve"), tokens.ensure("host")
    named, _ = tokens.create("ui", Recorded(), role="host")
    for door in (TokenDoor(tokens.known), OpenDoor(TokenDoor(tokens.known_hosts))):
        assert [door.admit_host(token) is not None for token in (agent, host, named)] == [False, True, True]
    assert TokenDoor(tokens.known).admit(agent) != ANYBODY
    assert OpenDoor().admit_host(host) is None


def test_without_authentication_everybody_is_an_agent_and_nobody_more():
    door = OpenDoor()
    assert door.admit("whatever") == ANYBODY == Access(role="agent")
    assert not door.auth_enabled
    assert door.holds(ANYBODY)


def test_every_token_is_compared_in_constant_time_whichever_fits(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    tokens = Tokens(disk)
    made = [tokens.create(f"t{number}", Recorded(), role="agent")[0] for number in range(5)]
    compared: list[int] = []
    whole = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return whole(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    door = TokenDoor(tokens.known)
    for token in (made[0], made[4], "wrong", made[0][:-1]):
        compared.clear()
        door.admit(token)
        assert compared == [32] * 5


def test_a_revoked_token_is_good_for_nothing_in_whatever_has_the_store_open(disk: Disk):
    elsewhere, recorded = Tokens(disk), Recorded()
    token, _ = elsewhere.create("ada", recorded, role="agent")
    clock = [0]
    door = TokenDoor(Tokens(disk).known, clock_us=lambda: clock[0])
    access = door.admit(token)
    assert access is not None
    assert door.holds(access)
    elsewhere.revoke("ada", recorded)
    clock[0] += 1_000_000
    assert door.admit(token) is None
    assert not door.holds(access)
    assert recorded.names == ["token.created", "token.revoked"]


def test_a_token_of_the_same_name_is_another(disk: Disk):
    tokens = Tokens(disk)
    first, _ = tokens.create("ada", Recorded(), role="agent")
    access = TokenDoor(tokens.known).admit(first)
    assert access is not None
    tokens.revoke("ada", Recorded())
    tokens.create("ada", Recorded(), role="agent")
    assert not TokenDoor(tokens.known).holds(access)


def test_a_renewed_token_shuts_out_who_has_the_one_before(disk: Disk):
    tokens, recorded = Tokens(disk), Recorded()
    before = tokens.ensure("serve")
    access = TokenDoor(tokens.known).admit(before)
    assert access is not None
    after = tokens.renew("serve", recorded)
    door = TokenDoor(tokens.known)
    assert (door.admit(before), door.holds(access)) == (None, False)
    assert door.admit(after) is not None
    assert recorded.names == ["token.revoked", "token.created"]


def test_an_expired_token_admits_nobody(disk: Disk):
    tokens = Tokens(disk)
    token, _ = tokens.create("ada", Recorded(), role="agent", expires_at_us=1_000)
    clock = [999]
    door = TokenDoor(tokens.known, clock_us=lambda: clock[0])
    access = door.admit(token)
    assert access is not None
    clock[0] = 1_000
    assert door.admit(token) is None
    clock[0] = 2_000_000
    assert not door.holds(access)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"tokens": [{"name": "x"}]}', b"\xff", b'{"tokens": 1}']
)
def test_a_file_that_cannot_be_read_admits_nobody_by_it(disk: Disk, data: bytes):
    tokens = Tokens(disk)
    plain = tokens.ensure("serve")
    token, _ = tokens.create("ada", Recorded(), role="host")
    disk.replace(NAMED_TOKENS, data)
    door = TokenDoor(tokens.known)
    assert (door.admit(token), door.admit_host(token)) == (None, None)
    assert door.admit(plain) is None, "a guard that errs says no"
    with pytest.raises(StoreError):
        tokens.named()


def test_nothing_is_made_that_is_not_on_the_record(disk: Disk):
    def refuse(name: str, data: dict[str, Any]) -> None:
        raise NotRecorded()

    tokens = Tokens(disk)
    with pytest.raises(NotRecorded):
        tokens.create("ada", refuse, role="agent")
    assert tokens.named() == []


def test_a_token_that_cannot_be_put_on_the_record_as_revoked_is_out_all_the_same(disk: Disk):
    def refuse(name: str, data: dict[str, Any]) -> None:
        raise NotRecorded()

    tokens = Tokens(disk)
    tokens.create("ada", Recorded(), role="agent")
    with pytest.raises(NotRecorded):
        tokens.revoke("ada", refuse)
    assert tokens.named() == []


@pytest.mark.parametrize("name", ["", "serve", "host", "a b", "../x", "a" * 65, "-x", "é", "a\n"])
def test_a_name_is_a_plain_word(disk: Disk, name: str):
    with pytest.raises(InvalidInput):
        Tokens(disk).create(name, Recorded(), role="agent")


def test_what_cannot_be_done_is_said(disk: Disk):
    tokens = Tokens(disk)
    tokens.create("ada", Recorded(), role="agent")
    with pytest.raises(UsageError, match="already"):
        tokens.create("ada", Recorded(), role="agent")
    with pytest.raises(NotFound):
        tokens.revoke("bob", Recorded())
    with pytest.raises(UsageError, match="renew"):
        tokens.revoke("serve", Recorded())
    wrong: Any = "root"
    with pytest.raises(InvalidInput, match="role"):
        tokens.create("eve", Recorded(), role=wrong)


def test_tokens_made_at_once_are_all_kept(tmp_path: Path):
    disk = RealDisk(tmp_path / "store")
    made: list[str] = []

    def make(number: int) -> None:
        made.append(Tokens(disk).create(f"t{number}", Recorded(), role="agent")[0])

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    door = TokenDoor(Tokens(disk).known)
    assert [door.admit(token) is not None for token in made] == [True] * 8


def test_who_is_nobody_yet_may_stay_to_say_who_it_is(disk: Disk):
    assert TokenDoor(Tokens(disk).known).holds(NOT_YET)
