"""Keys are trusted by id until an instant, revoked for good, in a file that nobody else writes."""

import json
import os
import threading
from pathlib import Path

import pytest
from tests.skills.locked_roots import ALICE, BOB, NOW, SECOND

from custody.errors import InvalidInput, NotFound, TrustUnusable
from custody.journal.checkpoint import Signer
from custody.records import rfc3339
from custody.skills.trust import SCHEMA_VERSION, Trust


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "skills.trust.json")


def written(path: str, **changes: object) -> Path:
    """A trust file with one good entry, some members of which are others."""
    Trust.load(path).add(ALICE.verifier.line, now_us=NOW)
    content = json.loads(Path(path).read_text())
    content["keys"][0] |= changes
    Path(path).write_text(json.dumps(content))
    return Path(path)


def test_no_file_is_no_key(path: str):
    assert Trust.load(path).keys == ()


def test_a_key_that_was_added_is_there_for_the_next_who_looks(path: str):
    added = Trust.load(path).add(ALICE.verifier.line, NOW + SECOND, now_us=NOW)
    assert Trust.load(path) == added
    key = added.key("alice.example/skills")
    assert (key.vkey, key.added_at, key.expires_at, key.revoked_at, key.key_hash) == (
        ALICE.verifier.line,
        rfc3339(NOW),
        rfc3339(NOW + SECOND),
        None,
        ALICE.key_hash.hex(),
    )


def test_only_its_owner_can_read_or_write_the_file(path: str):
    Trust.load(path).add(ALICE.verifier.line)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_the_folder_is_made_where_there_is_none(tmp_path: Path):
    path = str(tmp_path / "config" / "custody" / "skills.trust.json")
    Trust.load(path).add(ALICE.verifier.line)
    assert len(Trust.load(path).keys) == 1


def test_a_key_has_expired_from_its_instant_on(path: str):
    key = Trust.load(path).add(ALICE.verifier.line, NOW, now_us=NOW - SECOND).keys[0]
    assert [key.standing(at) for at in (NOW - 1, NOW, NOW + 1)] == ["trusted", "expired", "expired"]


def test_a_revoked_key_is_revoked_also_after_it_has_expired(path: str):
    trust = (
        Trust.load(path).add(ALICE.verifier.line, NOW, now_us=NOW - SECOND).revoke(ALICE.name, now_us=NOW - 1)
    )
    assert [trust.keys[0].standing(at) for at in (NOW - 1, NOW)] == ["revoked", "revoked"]


def test_revoking_twice_keeps_the_first_time(path: str):
    trust = Trust.load(path).add(ALICE.verifier.line, now_us=NOW).revoke(ALICE.name, now_us=NOW + SECOND)
    assert trust.revoke(ALICE.name, now_us=NOW + 2 * SECOND).keys[0].revoked_at == rfc3339(NOW + SECOND)


def test_a_revoked_key_cannot_be_added_again(path: str):
    trust = Trust.load(path).add(ALICE.verifier.line).revoke(ALICE.name)
    with pytest.raises(InvalidInput, match=r"This key \(alice.example/skills\) was revoked"):
        trust.add(ALICE.verifier.line)


def test_there_is_one_key_of_a_name(path: str):
    trust = Trust.load(path).add(ALICE.verifier.line)
    with pytest.raises(InvalidInput, match="Another key of this name"):
        trust.add(Signer(ALICE.name, b"\x09" * 32).verifier.line)
    assert Trust.load(path) == trust


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "alice",
        "alice+00000000+AAAA",
        ALICE.line,
        ALICE.verifier.line.replace("alice", "mallory"),
        "a b+1+2",
    ],
    ids=["empty", "a name", "too short", "the private half", "another name", "a space"],
)
def test_what_is_no_public_key_is_refused(path: str, vkey: str):
    with pytest.raises(InvalidInput):
        Trust.load(path).add(vkey)
    assert not os.path.exists(path)


def test_an_end_that_is_past_is_refused(path: str):
    with pytest.raises(InvalidInput, match="is past"):
        Trust.load(path).add(ALICE.verifier.line, NOW, now_us=NOW)


def test_revoking_a_key_nobody_added_says_so(path: str):
    with pytest.raises(NotFound, match="No key 'carol'"):
        Trust.load(path).revoke("carol")


def test_a_change_is_on_the_record_before_it_counts(path: str):
    said: list[dict[str, object]] = []

    def on_record(data: dict[str, object]) -> None:
        said.append({**data, "in_file": len(Trust.load(path).keys)})

    Trust.load(path).add(ALICE.verifier.line, now_us=NOW, on_record=on_record)
    trust = Trust.load(path).revoke(ALICE.name, now_us=NOW, on_record=on_record)
    trust.revoke(ALICE.name, on_record=on_record)
    about = {
        "key_id": ALICE.name,
        "key_hash": ALICE.key_hash.hex(),
        "vkey": ALICE.verifier.line,
        "expires_at": None,
    }
    assert said == [
        {**about, "revoked_at": None, "in_file": 0},
        {**about, "revoked_at": rfc3339(NOW), "in_file": 1},
    ]


def test_what_cannot_be_recorded_does_not_come_to_be(path: str):
    def full(_: object) -> None:
        raise InvalidInput("no room on the disk")

    with pytest.raises(InvalidInput, match="no room"):
        Trust.load(path).add(ALICE.verifier.line, on_record=full)
    assert Trust.load(path).keys == ()
    assert Trust.load(path).add(ALICE.verifier.line).keys != ()


def test_two_who_change_it_at_once_both_find_their_change(path: str):
    stale = Trust.load(path)
    keys = [Signer(f"key-{number}.example", bytes([number]) * 32).verifier.line for number in range(1, 7)]
    threads = [threading.Thread(target=stale.add, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(key.vkey for key in Trust.load(path).keys) == sorted(keys)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_believed(path: str, mode: int):
    written(path).chmod(mode)
    with pytest.raises(TrustUnusable, match=r"Others may change .* `chmod 600"):
        Trust.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_believed(path: str):
    os.chown(written(path), 12345, -1)
    with pytest.raises(TrustUnusable, match="belongs to another user"):
        Trust.load(path)


def test_a_link_is_not_followed(path: str, tmp_path: Path):
    elsewhere = written(path)
    link = tmp_path / "link.json"
    link.symlink_to(elsewhere)
    with pytest.raises(TrustUnusable, match="it is a link"):
        Trust.load(str(link))


def test_a_pipe_is_not_waited_for(path: str):
    os.mkfifo(path, 0o600)
    with pytest.raises(TrustUnusable, match="is not a file"):
        Trust.load(path)
    os.unlink(path)
    os.mkfifo(os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.lock"), 0o600)
    assert Trust.load(path).add(ALICE.verifier.line, now_us=NOW).keys


def test_a_newer_schema_is_refused(path: str):
    Path(path).write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1, "wheels": 4}))
    with pytest.raises(TrustUnusable, match="made by a newer Custody"):
        Trust.load(path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "carol"}, "verifier line of another key"),
        ({"vkey": "nothing"}, "no usable verifier line"),
        ({"expires_at": "tomorrow"}, "for a time"),
        ({"revoked_at": "2026-01-01T00:00:00"}, "for a time"),
        ({"trusted": True}, "unknown field"),
        ({"added_at": None}, "Expected `str`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_entry_that_is_wrong_makes_the_file_unusable(path: str, changes: dict[str, object], why: str):
    written(path, **changes)
    with pytest.raises(TrustUnusable, match=why):
        Trust.load(path)


def test_an_id_that_is_there_twice_makes_the_file_unusable(path: str):
    content = json.loads(written(path).read_text())
    content["keys"] *= 2
    Path(path).write_text(json.dumps(content))
    with pytest.raises(TrustUnusable, match="twice"):
        Trust.load(path)


def test_an_unusable_file_is_never_written_over(path: str):
    Path(path).write_bytes(b"{")
    os.chmod(path, 0o600)
    with pytest.raises(TrustUnusable):
        Trust(path=path).add(BOB.verifier.line)
    assert Path(path).read_bytes() == b"{"
