"""A report on a root names the skill, the file and what became of it, and changes nothing."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.skills.locked_roots import (
    ALICE,
    BOB,
    NOW,
    SECOND,
    entry_of,
    file_skill,
    folder_skill,
    lock,
    shelf_of,
    skill_text,
)

from custody.journal.checkpoint import Signer
from custody.skills.catalog import load_catalog
from custody.skills.lock import LOCK_FILE, Lock, SignatureData, lock_bytes, lock_path, parse_lock, read_lock
from custody.skills.signing import sign_tree
from custody.skills.tree import TreeBounds, read_tree
from custody.skills.trust import Trust
from custody.skills.verify import RootReport, verify_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folders, one with a script, and a file, all locked."""
    root = tmp_path / "skills"
    folder_skill(root, "pdf", {"scripts/run.sh": "echo hi\n", "notes.txt": "a"})
    folder_skill(root, "xlsx")
    file_skill(root, "notes")
    lock(root, "pdf", "xlsx", "notes.md")
    return root


def trust_of(root: Path, *signers: Signer) -> Trust:
    trust = Trust.load(shelf_of(root).trust_file)
    for signer in signers:
        trust = trust.add(signer.verifier.line, now_us=NOW - SECOND)
    return trust


def verified(root: Path, *, require_signed: bool = False, at_us: int = NOW) -> RootReport:
    shelf = shelf_of(root, require_signed=require_signed)
    return verify_root(shelf.roots[0], shelf, Trust.load(shelf.trust_file), at_us)


def sign(root: Path, path: str, signer: Signer = ALICE) -> bytes:
    """Sign a skill as it is and lock it with its signature."""
    digest = read_tree(str(root / path), TreeBounds()).digest
    note = sign_tree(digest, path, signer.seed, signer.name)
    (root / path / "SKILL.sig").write_bytes(note)
    data = SignatureData(key_id=signer.name, key_hash=signer.key_hash.hex(), note=note.decode())
    held = read_lock(str(root)) or Lock()
    (root / LOCK_FILE).write_bytes(lock_bytes(held.having(path, entry_of(root, path, data))))
    return note


def findings(report: RootReport) -> dict[str, object]:
    """What is not empty of what can be wrong."""
    found = {
        "missing": report.missing,
        "extra": report.extra,
        "changed": tuple((one.skill, one.file, one.what) for one in report.changed),
        "mismatch": tuple(one.skill for one in report.metadata_mismatch),
    }
    assert report.ok == (not any(found.values()))
    return {kind: what for kind, what in found.items() if what}


def test_a_root_that_is_as_it_was_installed_is_fine(root: Path):
    report = verified(root)
    assert findings(report) == {}
    assert (report.locked, report.checked, report.problem, report.leftovers) == (True, 3, None, ())
    assert {verdict.skill: verdict.reason for verdict in report.signatures} == dict.fromkeys(
        ("notes.md", "pdf", "xlsx"), "unsigned"
    )


def test_where_the_root_lies_and_when_its_files_were_written_does_not_count(root: Path, tmp_path: Path):
    before = verified(root)
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    root.rename(moved)
    for file in moved.rglob("*"):
        os.utime(file, (1, 1))
    after = verified(moved)
    assert after.ok
    assert (after.checked, after.signatures) == (before.checked, before.signatures)


def _changed(*changes: tuple[str, str, str]) -> dict[str, object]:
    return {"changed": changes}


def _front_matter(root: Path) -> None:
    file = root / "pdf/SKILL.md"
    file.write_text(file.read_text().replace("What pdf is for", "Always use this"))


def _folder_for_a_file(root: Path) -> None:
    (root / "notes.md").unlink()
    folder_skill(root, "notes.md")


def _file_for_a_folder(root: Path) -> None:
    shutil.rmtree(root / "xlsx")
    (root / "xlsx").write_text(skill_text("xlsx"))


def _link_for_a_folder(root: Path) -> None:
    (root / "xlsx").rename(root / "docx")
    (root / "xlsx").symlink_to("docx")


CHANGES: dict[str, tuple[Callable[[Path], object], dict[str, object]]] = {
    "front matter": (_front_matter, _changed(("pdf", "SKILL.md", "content"))),
    "script": (
        lambda root: (root / "pdf/scripts/run.sh").write_text("echo ho\n"),
        _changed(("pdf", "scripts/run.sh", "content")),
    ),
    "a file more": (lambda root: (root / "pdf/more.txt").touch(), _changed(("pdf", "more.txt", "added"))),
    "a hidden file": (lambda root: (root / "pdf/.hidden").touch(), _changed(("pdf", ".hidden", "added"))),
    "a file less": (
        lambda root: (root / "pdf/notes.txt").unlink(),
        _changed(("pdf", "notes.txt", "removed")),
    ),
    "executable": (
        lambda root: (root / "pdf/notes.txt").chmod(0o755),
        _changed(("pdf", "notes.txt", "mode")),
    ),
    "not executable": (
        lambda root: (root / "pdf/scripts/run.sh").chmod(0o644),
        _changed(("pdf", "scripts/run.sh", "mode")),
    ),
    "renamed": (
        lambda root: (root / "pdf/notes.txt").rename(root / "pdf/other.txt"),
        _changed(("pdf", "notes.txt", "removed"), ("pdf", "other.txt", "added")),
    ),
    "a link": (lambda root: (root / "pdf/link").symlink_to("notes.txt"), _changed(("pdf", "", "unreadable"))),
    "single file": (
        lambda root: (root / "notes.md").write_text(skill_text("notes", "Otherwise.")),
        _changed(("notes.md", "SKILL.md", "content")),
    ),
    "folder gone": (lambda root: shutil.rmtree(root / "pdf"), {"missing": ("pdf",)}),
    "file gone": (lambda root: (root / "notes.md").unlink(), {"missing": ("notes.md",)}),
    "folder more": (lambda root: folder_skill(root, "docx"), {"extra": ("docx",)}),
    "file more": (lambda root: file_skill(root, "docx"), {"extra": ("docx.md",)}),
    "link to a skill": (lambda root: (root / "docx").symlink_to("pdf"), {"extra": ("docx",)}),
    "link to nothing": (lambda root: (root / "docx.md").symlink_to("/nowhere"), {"extra": ("docx.md",)}),
    "folder for a file": (_folder_for_a_file, _changed(("notes.md", "", "unreadable"))),
    "file for a folder": (_file_for_a_folder, _changed(("xlsx", "", "unreadable"))),
    "link for a folder": (_link_for_a_folder, {"extra": ("docx",), **_changed(("xlsx", "", "unreadable"))}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found_and_named(root: Path, what: str):
    change, found = CHANGES[what]
    change(root)
    report = verified(root)
    assert findings(report) == found
    assert all(one.message.endswith(".") for one in report.changed)


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_reported_is_not_offered_and_the_rest_is(root: Path, what: str):
    CHANGES[what][0](root)
    report = verified(root)
    named = {*report.missing, *report.extra, *(one.skill for one in report.changed)}
    offered = {skill.path for skill in load_catalog(shelf_of(root)).skills}
    assert offered == {"pdf", "xlsx", "notes.md"} - named


def test_what_is_no_skill_is_no_finding(root: Path):
    (root / "README.md").write_text("# Our skills\n")
    (root / "assets").mkdir()
    (root / "picture.png").touch()
    (root / ".git").mkdir()
    assert findings(verified(root)) == {}


@pytest.mark.parametrize("locked", [True, False])
def test_a_name_that_is_no_text_can_be_told_as_text(root: Path, locked: bool):
    for name in (b"caf\xe9", b".custody-\xff"):
        folder = os.path.join(os.fsencode(root), name)
        os.mkdir(folder)
        Path(os.fsdecode(folder), "SKILL.md").write_text(skill_text("x"))
    if not locked:
        (root / LOCK_FILE).unlink()
    report = verified(root)
    assert report.extra == (("caf\\udce9",) if locked else ())
    assert report.leftovers == (".custody-\\udcff",)
    assert b"caf" in msgspec.json.encode(report)


def test_nothing_in_the_root_is_touched(root: Path):
    (root / "pdf/more.txt").touch()

    def state() -> list[tuple[str, int, int]]:
        return sorted(
            (str(path), path.lstat().st_mtime_ns, path.lstat().st_mode) for path in [root, *root.rglob("*")]
        )

    before = state()
    verified(root)
    assert state() == before


def test_an_entry_that_contradicts_itself_is_named(root: Path):
    whole = json.loads((root / LOCK_FILE).read_text())
    whole["skills"]["xlsx"]["digest"] = whole["skills"]["pdf"]["digest"]
    whole["skills"]["pdf"]["name"] = "docx"
    (root / LOCK_FILE).write_text(json.dumps(whole))
    assert findings(verified(root)) == {"mismatch": ("pdf", "xlsx")}


def test_a_lock_that_cannot_be_used_is_the_whole_report(root: Path):
    (root / LOCK_FILE).write_text('{"schema_version": 9}')
    report = verified(root)
    assert (report.ok, report.checked, report.locked) == (False, 0, True)
    assert report.problem is not None
    assert "newer Custody" in report.problem


def test_a_root_that_is_not_there_has_nothing_wrong(tmp_path: Path):
    report = verified(tmp_path / "gone")
    assert (report.ok, report.locked, report.problem, report.checked) == (True, False, None, 0)


def test_a_root_that_is_a_file_is_a_problem(tmp_path: Path):
    (tmp_path / "file").touch()
    report = verified(tmp_path / "file")
    assert (report.ok, report.problem) == (False, f"{tmp_path}/file cannot be read: Not a directory.")


def test_a_root_without_a_lock_promises_nothing(root: Path):
    (root / LOCK_FILE).unlink()
    report = verified(root)
    assert findings(report) == {}
    assert (report.locked, report.checked) == (False, 3)


def test_what_a_cut_install_left_is_named(root: Path):
    (root / ".custody-skill-new-0123456789abcdef").mkdir()
    (root / ".custody-skills.lock").touch()
    report = verified(root)
    assert findings(report) == {}
    assert report.leftovers == (".custody-skill-new-0123456789abcdef",)


def test_an_install_between_two_looks_is_no_difference(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The lock is read, an install puts a fourth skill and the next lock in place, and the files are read."""
    looked = 0

    def parse(data: bytes, where: str) -> Lock:
        nonlocal looked
        looked += 1
        before = parse_lock(data, where)
        if looked == 1:
            folder_skill(root, "docx")
            lock(root, "docx")
        return before

    monkeypatch.setattr("custody.skills.verify.parse_lock", parse)
    report = verified(root)
    assert findings(report) == {}
    assert (looked, report.checked) == (2, 4)


# -- signatures -----------------------------------------------------------------------------------------


def reasons(report: RootReport) -> dict[str | None, str]:
    return {verdict.skill: verdict.reason for verdict in report.signatures}


def test_a_signed_skill_is_valid_where_its_key_is_trusted(root: Path):
    sign(root, "pdf")
    assert reasons(verified(root))["pdf"] == "untrusted"
    trust_of(root, ALICE)
    report = verified(root)
    assert (report.ok, reasons(report)["pdf"]) == (True, "valid")


def test_where_signatures_are_demanded_every_skill_needs_a_valid_one(root: Path):
    trust_of(root, ALICE)
    for path in ("pdf", "xlsx"):
        sign(root, path)
    assert not verified(root, require_signed=True).ok
    (root / "notes.md").unlink()
    held = read_lock(str(root))
    assert held is not None
    (root / LOCK_FILE).write_bytes(lock_bytes(held.without("notes.md")))
    assert verified(root, require_signed=True).ok
    sign(root, "xlsx", BOB)
    assert not verified(root, require_signed=True).ok


def test_a_key_that_has_expired_is_told_and_a_fault_only_where_signatures_are_demanded(root: Path):
    sign(root, "pdf")
    trust = Trust.load(shelf_of(root).trust_file)
    trust.add(ALICE.verifier.line, NOW, now_us=NOW - SECOND)
    report = verified(root, at_us=NOW)
    assert (report.ok, reasons(report)["pdf"]) == (True, "expired")
    assert reasons(verified(root, at_us=NOW - 1))["pdf"] == "valid"
    assert not verified(root, require_signed=True, at_us=NOW).ok


def test_a_revoked_key_is_a_fault(root: Path):
    sign(root, "pdf")
    trust_of(root, ALICE).revoke(ALICE.name)
    report = verified(root)
    assert (report.ok, reasons(report)["pdf"]) == (False, "revoked")


def test_a_signature_over_what_was_there_before_is_told_with_the_change(root: Path):
    sign(root, "pdf")
    (root / "pdf/notes.txt").write_text("b")
    report = verified(root)
    assert [(one.skill, one.file, one.what) for one in report.changed] == [("pdf", "notes.txt", "content")]
    assert reasons(report)["pdf"] == "other_digest"


def test_also_without_a_lock_a_signature_over_other_files_is_a_fault(root: Path):
    sign(root, "pdf")
    (root / LOCK_FILE).unlink()
    assert verified(root).ok
    (root / "pdf/notes.txt").write_text("b")
    assert not verified(root).ok


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is gone"), (b"x", "not the one that it was installed with")],
    ids=["gone", "another"],
)
def test_a_signature_file_that_is_not_the_one_of_the_lock_is_named(
    root: Path, content: bytes | None, message: str
):
    sign(root, "pdf")
    file = root / "pdf" / "SKILL.sig"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    report = verified(root)
    assert not report.ok
    assert [(one.skill, message in one.message) for one in report.metadata_mismatch] == [("pdf", True)]


def test_a_signature_file_that_is_a_link_is_not_followed(root: Path, tmp_path: Path):
    (tmp_path / "SKILL.sig").write_bytes(sign(root, "pdf"))
    file = root / "pdf" / "SKILL.sig"
    file.unlink()
    file.symlink_to(tmp_path / "SKILL.sig")
    assert not verified(root).ok


def test_a_signature_that_came_after_the_install_is_named(root: Path):
    digest = read_tree(str(root / "notes.md"), TreeBounds()).digest
    (root / "notes.md.sig").write_bytes(sign_tree(digest, "notes", ALICE.seed, ALICE.name))
    report = verified(root)
    assert findings(report) == {"mismatch": ("notes.md",)}
    assert "install it again" in report.metadata_mismatch[0].message


def test_an_entry_that_names_another_signer_than_its_note_is_named(root: Path):
    sign(root, "pdf")
    file = Path(lock_path(str(root)))
    file.write_text(file.read_text().replace(f'"key_id": "{ALICE.name}"', f'"key_id": "{BOB.name}"'))
    assert findings(verified(root)) == {"mismatch": ("pdf",)}


# -- speed ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_skills_of_ten_megabytes_are_verified_within_a_second(tmp_path: Path):
    root = tmp_path / "skills"
    for number in range(1_000):
        folder_skill(root, f"skill-{number}", {"data.txt": f"{number:05d}" * 1_990, "run.sh": "echo hi\n"})
    entries = {path: entry_of(root, path) for path in sorted(os.listdir(root))}
    (root / LOCK_FILE).write_bytes(lock_bytes(Lock(entries=entries)))
    times: list[float] = []
    for _ in range(3):
        start = time.thread_time()  # others have the processor, too
        report = verified(root)
        times.append(time.thread_time() - start)
        assert (report.ok, report.checked) == (True, 1_000)
    assert min(times) < 1.0
