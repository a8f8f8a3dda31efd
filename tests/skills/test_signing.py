"""A signature file says whose files these are; each reason why it does not count has a word of its own."""

import base64
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from tests.skills.locked_roots import ALICE, BOB, NOW, SECOND

from custody.errors import InvalidInput
from custody.journal.checkpoint import Signer, Verifier, split_note
from custody.skills.signing import (
    check_signature,
    new_private_key,
    read_private_key,
    sign_tree,
    signature_path,
    verifier_line,
)
from custody.skills.trust import Trust, TrustedKey

DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32

TRUSTS_ALICE = Trust(
    path="/nowhere",
    keys=(TrustedKey(id=ALICE.name, vkey=ALICE.verifier.line, added_at="2026-01-01T00:00:00Z"),),
)


@pytest.fixture
def nobody(tmp_path: Path) -> Trust:
    return Trust.load(str(tmp_path / "skills.trust.json"))


@pytest.fixture
def trust(nobody: Trust) -> Trust:
    """Trusts Alice."""
    return nobody.add(ALICE.verifier.line, now_us=NOW - SECOND)


def signed(signer: Signer = ALICE, digest: str = DIGEST, beside: bytes | None = None) -> bytes:
    return sign_tree(digest, "pdf", signer.seed, signer.name, beside=beside)


def reason(note: bytes | None, trust: Trust, at_us: int = NOW, digest: str = DIGEST) -> str:
    return check_signature(note, digest, trust, at_us).reason


def independent_check(note: bytes, vkey: str) -> list[str]:
    """The lines that were signed, by C2SP signed-note and nothing of ours."""
    name, key_hash, key = vkey.split("+", 2)
    public = base64.b64decode(key)
    assert public[0] == 1
    assert hashlib.sha256(f"{name}\n".encode() + public).digest()[:4].hex() == key_hash
    text, signatures = note.decode().split("\n\n")
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        data = base64.b64decode(encoded)
        if (dash, signer, data[:4].hex()) == ("\N{EM DASH}", name, key_hash):
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(data[4:], f"{text}\n".encode())
            return text.split("\n")
    raise AssertionError("no signature of that key")


def test_the_note_is_what_the_documents_say_it_is():
    note = signed()
    assert independent_check(note, ALICE.verifier.line) == ["custody-skill/v1", "pdf", DIGEST]
    assert note.endswith(b"\n")


def test_a_signature_of_a_trusted_key_is_valid(trust: Trust):
    verdict = check_signature(signed(), DIGEST, trust, NOW)
    assert verdict.valid
    assert (verdict.key_id, verdict.key_hash, verdict.signed_name) == (
        ALICE.name,
        ALICE.key_hash.hex(),
        "pdf",
    )


def test_the_same_files_under_the_same_key_are_signed_by_the_same_bytes():
    assert signed() == signed()


def test_no_note_is_unsigned(trust: Trust):
    assert reason(None, trust) == "unsigned"


def test_a_key_nobody_trusts_is_untrusted(nobody: Trust):
    assert reason(signed(), nobody) == "untrusted"


def test_another_key_of_a_trusted_name_is_untrusted(trust: Trust):
    assert reason(signed(Signer(ALICE.name, b"\x09" * 32)), trust) == "untrusted"


def test_a_key_expires_at_its_instant(nobody: Trust):
    trust = nobody.add(ALICE.verifier.line, NOW, now_us=NOW - SECOND)
    assert [reason(signed(), trust, at) for at in (NOW - 1, NOW)] == ["valid", "expired"]


def test_a_revoked_key_is_revoked_whether_it_has_expired_or_not(nobody: Trust):
    trust = nobody.add(ALICE.verifier.line, NOW, now_us=NOW - SECOND).revoke(ALICE.name)
    assert [reason(signed(), trust, at) for at in (NOW - 1, NOW)] == ["revoked", "revoked"]


def test_a_signature_over_other_files_says_so_whoever_signed(trust: Trust):
    assert [reason(signed(who), trust, digest=OTHER_DIGEST) for who in (ALICE, BOB)] == ["other_digest"] * 2


def test_a_forged_signature_is_a_bad_one(trust: Trust):
    forged = signed(BOB).replace(BOB.name.encode(), ALICE.name.encode())
    key_hash = base64.b64encode(ALICE.key_hash + split_note(forged)[1][0].signature)
    text, _, _ = forged.rpartition(b" ")
    assert reason(text + b" " + key_hash + b"\n", trust) == "bad_signature"


def test_a_text_changed_after_it_was_signed_is_a_bad_signature(trust: Trust):
    assert reason(signed(digest=OTHER_DIGEST).replace(b"cd" * 32, b"ab" * 32), trust) == "bad_signature"


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff\xfe",
        b"nothing",
        b"custody-skill/v2\npdf\n" + DIGEST.encode() + b"\n\n" + ALICE.verifier.line.encode() + b"\n",
        signed().replace(b"custody-skill/v1", b"custody-skill/v2"),
        signed().replace(b"\npdf\n", b"\npdf\nmore\n"),
        signed().replace(b"sha256:", b"sha257:"),
        signed().replace(b"pdf", b"p\x1b[2Jdf"),
        signed()[:-1],
        signed() * 2,
        signed() + signed().rpartition(b"\n\n")[2] * 200,
    ],
    ids=[
        "empty", "no text", "no note", "no signature", "another version", "a line more", "another digest",
        "a terminal sequence", "cut", "two", "too many signatures",
    ],
)  # fmt: skip
def test_a_file_that_is_no_signature_is_a_bad_one_and_says_why(note: bytes, trust: Trust):
    verdict = check_signature(note, DIGEST, trust, NOW)
    assert (verdict.reason, verdict.key_id) == ("bad_signature", None)
    assert verdict.message.startswith("Its signature file cannot be read: ")


def test_one_good_signature_of_several_is_enough(trust: Trust):
    both = signed(ALICE, beside=signed(BOB))
    assert reason(both, trust) == "valid"
    independent_check(both, BOB.verifier.line)


def test_a_bad_signature_of_a_known_key_voids_the_good_ones(trust: Trust):
    both = signed(ALICE, beside=signed(BOB))
    trust = trust.add(BOB.verifier.line)
    bad = base64.b64encode(BOB.key_hash + bytes(64))
    line = f"\N{EM DASH} {BOB.name} ".encode()
    before, _, after = both.partition(line)
    assert reason(before + line + bad + after[after.index(b"\n") :], trust) == "bad_signature"


def test_a_revoked_key_beside_a_trusted_one_takes_nothing_away(trust: Trust):
    trust = trust.add(BOB.verifier.line).revoke(BOB.name)
    assert check_signature(signed(ALICE, beside=signed(BOB)), DIGEST, trust, NOW).key_id == ALICE.name


def test_revoked_is_told_before_expired(nobody: Trust):
    trust = (
        nobody.add(ALICE.verifier.line, NOW - 1, now_us=NOW - SECOND).add(BOB.verifier.line).revoke(BOB.name)
    )
    assert reason(signed(BOB, beside=signed(ALICE)), trust) == "revoked"


def test_signing_again_after_a_change_keeps_no_signature_of_the_old_files():
    again = signed(ALICE, OTHER_DIGEST, beside=signed(BOB))
    assert [each.name for each in split_note(again)[1]] == [ALICE.name]


def test_signing_twice_leaves_one_signature_of_a_key():
    assert signed(beside=signed()) == signed()


def test_every_reason_says_what_it_means_in_a_sentence(trust: Trust):
    notes = [None, signed(), signed(BOB), signed(digest=OTHER_DIGEST), b"x"]
    messages = [check_signature(note, DIGEST, trust, NOW).message for note in notes]
    assert len(set(messages)) == len(messages)
    assert all(message.endswith(".") for message in messages)


@given(at=st.integers(0, len(signed()) - 1), bit=st.integers(0, 7))
def test_no_single_bit_can_be_changed_unseen(at: int, bit: int):
    note = bytearray(signed())
    note[at] ^= 1 << bit
    assert not check_signature(bytes(note), DIGEST, TRUSTS_ALICE, NOW).valid


@given(note=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: signed() + text.encode()))
def test_whatever_is_in_the_file_the_answer_is_a_verdict(note: bytes):
    assert check_signature(note, DIGEST, TRUSTS_ALICE, NOW).message


# -- keys -----------------------------------------------------------------------------------------------


def test_a_new_key_signs_what_its_public_half_checks(tmp_path: Path, nobody: Trust):
    path = str(tmp_path / "skills.pem")
    seed = new_private_key(path)
    assert read_private_key(path) == seed
    assert os.stat(path).st_mode & 0o777 == 0o600
    vkey = verifier_line(seed, "me.example")
    assert Verifier.parse(vkey).name == "me.example"
    assert reason(sign_tree(DIGEST, "pdf", seed, "me.example"), nobody.add(vkey)) == "valid"


def test_of_a_file_that_is_no_key_nobody_is_told_to_change_its_mode(tmp_path: Path):
    path = tmp_path / "list"
    path.write_text("users\n")
    path.chmod(0o644)
    with pytest.raises(InvalidInput, match="is no Ed25519 key"):
        read_private_key(str(path))


def test_two_new_keys_are_two(tmp_path: Path):
    assert new_private_key(str(tmp_path / "a")) != new_private_key(str(tmp_path / "b"))


def test_a_new_key_is_never_written_over_another(tmp_path: Path):
    path = str(tmp_path / "skills.pem")
    seed = new_private_key(path)
    with pytest.raises(InvalidInput, match="is there already"):
        new_private_key(path)
    assert read_private_key(path) == seed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_key_that_openssl_made_can_sign(tmp_path: Path):
    path = tmp_path / "skills.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    path.chmod(0o600)
    assert len(read_private_key(str(path))) == 32


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0, "There is no key"),
        (b"-----BEGIN", 0o600, "no Ed25519 key"),
        (b"x" * 20_000, 0o600, "more than"),
        (b"-----BEGIN", 0o640, "Others may read"),
    ],
    ids=["missing", "no PEM", "too long", "readable by others"],
)
def test_a_key_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes | None, mode: int, why: str):
    path = tmp_path / "skills.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(InvalidInput, match=why):
        read_private_key(str(path))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2028b", "\x1b[2J", "x" * 256])
def test_a_key_cannot_have_a_name_that_breaks_the_line(name: str):
    with pytest.raises(InvalidInput, match="cannot be the name of a key"):
        sign_tree(DIGEST, "pdf", ALICE.seed, name)


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00b"])
def test_a_skill_cannot_be_signed_under_a_name_that_breaks_the_line(name: str):
    with pytest.raises(InvalidInput, match="cannot stand in a signature"):
        sign_tree(DIGEST, name, ALICE.seed, ALICE.name)


def test_only_a_digest_is_signed():
    with pytest.raises(InvalidInput, match="no digest of a skill"):
        sign_tree("sha256:12", "pdf", ALICE.seed, ALICE.name)


def test_a_signature_lies_in_the_folder_or_beside_the_file():
    assert [signature_path("/r/pdf", "folder"), signature_path("/r/notes.md", "file")] == [
        "/r/pdf/SKILL.sig",
        "/r/notes.md.sig",
    ]
