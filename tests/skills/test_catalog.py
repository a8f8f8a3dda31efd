"""Which skills are offered, and that nothing is kept back or passed over without a word."""

import os
import random
import threading
import time
from pathlib import Path

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
    skill_text,
)

from custody.errors import NotFound
from custody.journal import RealDisk
from custody.skills import Catalog, Problem, Root, Shelf, TreeBounds, Trust, load_catalog, verify_root
from custody.skills.lock import LOCK_FILE, Lock, SignatureData, lock_bytes
from custody.skills.signing import sign_tree
from custody.skills.transaction import INTENT, WRITER_LOCK
from custody.skills.tree import read_tree


def shelf(*roots: Path, require_signed: bool = False, bounds: TreeBounds | None = None) -> Shelf:
    return Shelf(
        roots=tuple(Root(path=str(root), kind="given") for root in roots),
        install_root=str(roots[0]),
        trust_file=str(roots[0].parent / "skills.trust.json"),
        require_signed=require_signed,
        bounds=bounds or TreeBounds(),
    )


def load(*roots: Path, require_signed: bool = False) -> Catalog:
    return load_catalog(shelf(*roots, require_signed=require_signed), now_us=NOW)


def names(catalog: Catalog) -> list[str]:
    return [skill.name for skill in catalog.skills]


def told(catalog: Catalog) -> list[tuple[str, str | None, bool]]:
    return [(problem.kind, problem.path, problem.offered) for problem in catalog.problems]


def only(catalog: Catalog) -> Problem:
    (problem,) = catalog.problems
    return problem


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "skills").mkdir()
    return tmp_path / "skills"


# -- what is a skill ------------------------------------------------------------------------------------


def test_folders_and_single_files_are_offered_by_name(root: Path):
    folder_skill(root, "pdf", {"scripts/run.sh": "id"})
    file_skill(root, "notes")
    catalog = load(root)
    assert catalog.problems == ()
    notes, pdf = catalog.skills
    assert (pdf.name, pdf.kind, pdf.path, pdf.file) == (
        "pdf",
        "folder",
        "pdf",
        str(root / "pdf" / "SKILL.md"),
    )
    assert (pdf.description, pdf.files, pdf.locked) == (
        "What pdf is for.",
        ("SKILL.md", "scripts/run.sh"),
        False,
    )
    assert pdf.metadata == {"name": "pdf", "description": "What pdf is for."}
    assert pdf.digest == read_tree(str(root / "pdf"), TreeBounds()).digest
    assert (notes.name, notes.kind, notes.path, notes.file) == (
        "notes",
        "file",
        "notes.md",
        str(root / "notes.md"),
    )


def test_a_root_that_is_missing_is_empty(tmp_path: Path):
    assert load(tmp_path / "none") == Catalog(skills=(), problems=())


def test_a_root_that_is_a_file_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    problem = only(load(tmp_path / "file"))
    assert (problem.kind, problem.path) == ("unreadable", None)
    assert "is not a folder" in problem.message


def test_a_root_may_be_a_link(tmp_path: Path, root: Path):
    folder_skill(root, "pdf")
    (tmp_path / "link").symlink_to(root)
    assert names(load(tmp_path / "link")) == ["pdf"]


def test_two_paths_to_one_root_are_no_conflict(tmp_path: Path, root: Path):
    folder_skill(root, "pdf")
    (tmp_path / "link").symlink_to(root)
    catalog = load(root, tmp_path / "link")
    assert (names(catalog), catalog.problems) == (["pdf"], ())


def test_names_with_a_dot_in_front_and_other_files_are_no_candidates(root: Path):
    folder_skill(root, ".custody-1")
    (root / "LICENSE").touch()
    (root / "notes.md.sig").touch()
    assert load(root) == Catalog(skills=(), problems=())


def test_what_is_not_a_skill_is_told(root: Path):
    (root / "README.md").write_text("# These are skills\n")
    (root / "half").mkdir()
    (root / "half" / "skill.md").write_text(skill_text("half"))
    (root / "SKILL.md").write_text(skill_text("x"))
    folder_skill(root, "has space")
    catalog = load(root)
    assert names(catalog) == []
    assert told(catalog) == [
        ("not_a_skill", "README.md", False),
        ("not_a_skill", "SKILL.md", False),
        ("not_a_skill", "half", False),
        ("not_a_skill", "has space", False),
    ]


def test_a_broken_skill_is_a_problem_of_its_own(root: Path):
    folder_skill(root, "good")
    folder_skill(root, "open", {"SKILL.md": "---\ndescription: never closed\n"})
    folder_skill(root, "bomb", {"SKILL.md": "---\na: &a [1]\nb: [*a, *a]\ndescription: d\n---\n"})
    (folder_skill(root, "latin") / "SKILL.md").write_bytes(b"---\ndescription: caf\xe9\n---\n")
    catalog = load(root)
    assert names(catalog) == ["good"]
    assert told(catalog) == [
        ("front_matter", "bomb", False),
        ("front_matter", "latin", False),
        ("front_matter", "open", False),
    ]
    assert "not closed" in catalog.problems[2].message


def test_links_and_pipes_in_place_of_skills_are_told_and_not_followed(tmp_path: Path, root: Path):
    folder_skill(tmp_path, "elsewhere")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "notes.md").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe.md")
    (folder_skill(root, "inside") / "data").symlink_to("/etc")
    catalog = load(root)
    assert names(catalog) == []
    assert told(catalog) == [
        ("unreadable", "inside", False),
        ("unreadable", "linked", False),
        ("unreadable", "notes.md", False),
        ("unreadable", "pipe.md", False),
    ]
    assert "is a link" in catalog.problems[0].message


def test_a_skill_beyond_the_bounds_is_told(root: Path):
    folder_skill(root, "large", {"data": "x" * 5_000})
    folder_skill(root, "small")
    catalog = load_catalog(shelf(root, bounds=TreeBounds(bytes_max=4_000)))
    assert names(catalog) == ["small"]
    assert "4,000 bytes" in only(catalog).message


def test_a_name_with_other_bytes_is_told_as_text(root: Path):
    os.mkdir(os.fsencode(root) + b"/\xff\x1b")
    (root / os.fsdecode(b"\xff\x1b") / "SKILL.md").write_text(skill_text("x"))
    problem = only(load(root))
    assert problem.path == "\\udcff\x1b"
    assert problem.message.isprintable()


def test_another_name_in_the_front_matter_is_told_and_the_skill_is_offered(root: Path):
    folder_skill(root, "pdf", {"SKILL.md": skill_text("docx")})
    catalog = load(root)
    assert names(catalog) == ["pdf"]
    assert told(catalog) == [("name_differs", "pdf", True)]
    assert "'docx'" in only(catalog).message


def test_a_description_that_is_cut_is_told(root: Path):
    folder_skill(root, "pdf", {"SKILL.md": f"---\ndescription: {'d' * 2_000}\n---\n"})
    catalog = load(root)
    assert len(catalog.get("pdf").description) == 1_024
    assert told(catalog) == [("front_matter", "pdf", True)]


# -- one name, one skill --------------------------------------------------------------------------------


def test_the_first_root_has_the_name_and_the_other_is_told(tmp_path: Path):
    first, second = tmp_path / "b", tmp_path / "a"
    folder_skill(first, "pdf")
    folder_skill(second, "pdf")
    folder_skill(second, "docx")
    catalog = load(first, second)
    assert [(skill.name, skill.root) for skill in catalog.skills] == [
        ("docx", str(second)),
        ("pdf", str(first)),
    ]
    problem = only(catalog)
    assert (problem.kind, problem.root, problem.path, problem.offered) == (
        "conflict",
        str(second),
        "pdf",
        False,
    )
    assert str(first / "pdf") in problem.message
    assert names(load(second, first)) == ["docx", "pdf"]
    assert load(second, first).get("pdf").root == str(second)


def test_a_folder_comes_before_a_file_of_the_same_name(root: Path):
    folder_skill(root, "pdf")
    file_skill(root, "pdf")
    catalog = load(root)
    assert [skill.path for skill in catalog.skills] == ["pdf"]
    assert told(catalog) == [("conflict", "pdf.md", False)]


@pytest.mark.parametrize("how", ["changed", "taken away", "broken", "lock of another time"])
def test_no_other_skill_stands_in_for_one_that_is_kept_back(tmp_path: Path, how: str):
    first, second = tmp_path / "first", tmp_path / "second"
    folder_skill(first, "pdf", {"run.sh": "id"})
    folder_skill(second, "pdf")
    lock(first, "pdf")
    match how:
        case "changed":
            (first / "pdf" / "run.sh").write_text("rm")
        case "taken away":
            for path in ("pdf/run.sh", "pdf/SKILL.md"):
                (first / path).unlink()
            (first / "pdf").rmdir()
        case "broken":
            (first / LOCK_FILE).unlink()
            (first / "pdf" / "SKILL.md").write_text("---\n")
        case _:
            (first / LOCK_FILE).write_text('{"schema_version": 99}')
    catalog = load(first, second)
    assert names(catalog) == []
    assert "conflict" in {problem.kind for problem in catalog.problems}
    with pytest.raises(NotFound, match="kept back"):
        catalog.get("pdf")


def test_a_folder_that_is_no_skill_has_no_name_to_keep(tmp_path: Path):
    (tmp_path / "first" / "pdf").mkdir(parents=True)
    folder_skill(tmp_path / "second", "pdf")
    assert names(load(tmp_path / "first", tmp_path / "second")) == ["pdf"]


def test_of_two_names_that_look_alike_the_later_is_kept_back(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    folder_skill(first, "pdf-tools")
    folder_skill(second, "pdf_t00ls")
    folder_skill(second, "docx")
    catalog = load(first, second)
    assert names(catalog) == ["docx", "pdf-tools"]
    assert told(catalog) == [("look_alike", "pdf_t00ls", False)]
    assert str(first / "pdf-tools") in only(catalog).message


# -- the lock -------------------------------------------------------------------------------------------


def test_what_the_lock_says_is_offered_with_its_source(root: Path):
    folder_skill(root, "pdf")
    file_skill(root, "notes")
    lock(root, "pdf", "notes.md")
    catalog = load(root)
    assert [(skill.name, skill.locked) for skill in catalog.skills] == [("notes", True), ("pdf", True)]
    source = catalog.get("pdf").source
    assert source is not None
    assert (source.kind, source.location) == ("local", "/somewhere")
    assert catalog.problems == ()


CHANGES = {
    "front matter": (
        "SKILL.md (changed)",
        lambda pdf: (pdf / "SKILL.md").write_text(skill_text("pdf", "Do more.")),
    ),
    "script": ("run.sh (changed)", lambda pdf: (pdf / "run.sh").write_text("rm")),
    "mode": ("text (executable or not)", lambda pdf: (pdf / "text").chmod(0o755)),
    "added": ("new.py (added)", lambda pdf: (pdf / "new.py").touch()),
    "removed": ("run.sh (removed)", lambda pdf: (pdf / "run.sh").unlink()),
    "no skill file": ("SKILL.md (removed)", lambda pdf: (pdf / "SKILL.md").unlink()),
    "signature": ("SKILL.sig (added)", lambda pdf: (pdf / "SKILL.sig").write_text("x")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_from_the_lock_is_not_offered_and_the_file_is_named(root: Path, change: str):
    folder_skill(root, "docx")
    pdf = folder_skill(root, "pdf", {"run.sh": "id", "text": ""})
    lock(root, "docx", "pdf")
    says, act = CHANGES[change]
    act(pdf)
    catalog = load(root)
    assert names(catalog) == ["docx"]
    assert told(catalog) == [("changed", "pdf", False)]
    assert says in only(catalog).message
    with pytest.raises(NotFound, match="kept back"):
        catalog.get("pdf")


def test_what_the_lock_does_not_name_is_not_offered(root: Path):
    folder_skill(root, "pdf")
    lock(root, "pdf")
    folder_skill(root, "dropped")
    (root / "README.md").write_text("# no skill\n")
    catalog = load(root)
    assert names(catalog) == ["pdf"]
    assert told(catalog) == [("not_a_skill", "README.md", False), ("extra", "dropped", False)]
    assert f"custody skills install {root / 'dropped'}" in catalog.problems[1].message


def test_what_the_lock_names_and_nobody_finds_is_missing(root: Path):
    file_skill(root, "notes")
    folder_skill(root, "pdf")
    lock(root, "notes.md", "pdf")
    (root / "notes.md").unlink()
    catalog = load(root)
    assert names(catalog) == ["pdf"]
    assert told(catalog) == [("missing", "notes.md", False)]


def test_moving_a_root_changes_nothing(tmp_path: Path, root: Path):
    folder_skill(root, "pdf", {"a/b": "c"})
    lock(root, "pdf")
    before = load(root).get("pdf")
    root.rename(tmp_path / "moved")
    after = load(tmp_path / "moved").get("pdf")
    assert (after.digest, after.locked, after.files) == (before.digest, True, before.files)


@pytest.mark.parametrize(
    "text",
    ["{", '{"schema_version": 2, "skills": {}}', '{"schema_version": 1, "skills": {}, "skills": {}}'],
    ids=["no JSON", "newer", "twice"],
)
def test_a_lock_that_cannot_be_read_offers_nothing_of_its_root(tmp_path: Path, root: Path, text: str):
    folder_skill(root, "pdf")
    folder_skill(tmp_path / "other", "docx")
    (root / LOCK_FILE).write_text(text)
    catalog = load(root, tmp_path / "other")
    assert names(catalog) == ["docx"]
    assert told(catalog) == [("lock", None, False)]
    with pytest.raises(NotFound, match=r"Nothing in .* is offered"):
        catalog.get("pdf")


def test_a_catalog_that_is_read_during_installs_sees_the_one_or_the_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Files and lock are put in place one after the other; nobody is told of what is in between."""
    # These installs never end, so that a machine that is busy may take long to find a moment between two.
    monkeypatch.setattr("custody.skills.root.CHANGE_WAIT_SECONDS", 60.0)
    versions: list[tuple[bytes, str]] = []
    for text in ("one", "two"):
        folder_skill(root, "pdf", {"data": text})
        entry = entry_of(root, "pdf")
        versions.append((lock_bytes(Lock(entries={"pdf": entry})), entry.digest))
        (root / "pdf").rename(root / f".version-{text}")
    (root / ".version-two").rename(root / "pdf")
    (root / LOCK_FILE).write_bytes(versions[1][0])
    stop = threading.Event()

    def install_again_and_again() -> None:
        disk = RealDisk(str(root), create=False)
        pauses = random.Random(7)  # a regular beat could be the reader's own
        while not stop.is_set():
            for here, away, (data, _) in (("one", "two", versions[0]), ("two", "one", versions[1])):
                writer = disk.lock(WRITER_LOCK)
                assert writer is not None
                (root / ".new").write_bytes(data)
                (root / "pdf").rename(root / f".version-{away}")
                (root / f".version-{here}").rename(root / "pdf")
                stop.wait(pauses.uniform(0, 0.004))
                (root / ".new").rename(root / LOCK_FILE)
                writer.release()
                stop.wait(pauses.uniform(0, 0.004))

    thread = threading.Thread(target=install_again_and_again)
    thread.start()
    try:
        seen: list[str] = []
        until = time.monotonic() + 60
        while len(seen) < 30 or (len(set(seen)) < 2 and time.monotonic() < until):
            catalog = load(root)
            assert catalog.problems == ()
            seen.append(catalog.get("pdf").digest)
    finally:
        stop.set()
        thread.join(60)
    assert set(seen) == {digest for _, digest in versions}


def test_an_install_that_was_cut_is_told(root: Path):
    folder_skill(root, "pdf")
    lock(root, "pdf")
    (root / INTENT).write_text("{}")
    assert load(root).problems == ()  # what is offered is what the lock says, so there is nothing to tell
    (root / "pdf" / "SKILL.md").write_text(skill_text("pdf", "The next version."))
    catalog = load(root)
    assert told(catalog) == [("changed", "pdf", False), ("lock", None, True)]
    assert "was cut short" in catalog.problems[1].message


# -- signatures -----------------------------------------------------------------------------------------


def signed(root: Path, name: str, signer: object = ALICE, *, locked: bool = False) -> Path:
    folder = folder_skill(root, name)
    digest = read_tree(str(folder), TreeBounds()).digest
    key = {ALICE: b"\x01" * 32, BOB: b"\x02" * 32}[signer]
    note = sign_tree(digest, name, key, signer.name)
    (folder / "SKILL.sig").write_bytes(note)
    if locked:
        data = SignatureData(key_id=signer.name, key_hash=signer.key_hash.hex(), note=note.decode())
        (root / LOCK_FILE).write_bytes(lock_bytes(Lock(entries={name: entry_of(root, name, data)})))
    return folder


def trusting(root: Path, expires_at: int | None = None) -> Trust:
    return Trust.load(str(root.parent / "skills.trust.json")).add(
        ALICE.verifier.line, expires_at, now_us=NOW - 10 * SECOND
    )


@pytest.mark.parametrize("locked", [False, True], ids=["not locked", "locked"])
def test_a_valid_signature_is_named(root: Path, locked: bool):
    signed(root, "pdf", locked=locked)
    trusting(root)
    catalog = load(root, require_signed=True)
    assert (catalog.get("pdf").signed_by, catalog.problems) == ("alice.example/skills", ())


def test_a_signature_of_a_stranger_is_worth_nothing_and_no_word(root: Path):
    signed(root, "pdf", BOB)
    trusting(root)
    catalog = load(root)
    assert (catalog.get("pdf").signed_by, catalog.problems) == (None, ())


def test_demanding_signatures_keeps_back_what_has_no_valid_one_with_its_reason(root: Path):
    signed(root, "by-bob", BOB)
    signed(root, "by-alice")
    (signed(root, "changed") / "SKILL.md").write_text(skill_text("changed", "Something else."))
    folder_skill(root, "unsigned")
    trusting(root)
    catalog = load(root, require_signed=True)
    assert names(catalog) == ["by-alice"]
    assert told(catalog) == [
        ("unsigned", "by-bob", False),
        ("unsigned", "changed", False),
        ("unsigned", "unsigned", False),
    ]
    reasons = [problem.message for problem in catalog.problems]
    assert "not trusted" in reasons[0]
    assert "other files" in reasons[1]
    assert "Nobody signed" in reasons[2]


def test_a_revoked_or_expired_key_is_told_where_no_signature_is_demanded(root: Path):
    signed(root, "pdf")
    trust = trusting(root, expires_at=NOW)
    assert told(load(root)) == [("unsigned", "pdf", True)]
    assert "expired" in only(load(root)).message
    trust.revoke("alice.example/skills")
    assert "revoked" in only(load(root)).message
    assert load(root).get("pdf").signed_by is None


def test_a_signature_that_was_taken_away_is_a_change(root: Path):
    folder = signed(root, "pdf", locked=True)
    trusting(root)
    (folder / "SKILL.sig").unlink()
    assert "SKILL.sig (removed)" in only(load(root)).message
    assert names(load(root)) == []


def test_a_trust_file_that_cannot_be_used_is_told_and_trusts_nobody(root: Path):
    signed(root, "pdf")
    trust_file = root.parent / "skills.trust.json"
    trusting(root)
    trust_file.chmod(0o666)
    catalog = load(root)
    assert catalog.get("pdf").signed_by is None
    assert (only(catalog).kind, only(catalog).path) == ("unsigned", "skills.trust.json")
    assert names(load(root, require_signed=True)) == []


# -- asking ---------------------------------------------------------------------------------------------


def test_a_name_that_is_not_there_is_answered_with_near_ones(root: Path):
    folder_skill(root, "pdf-tools")
    catalog = load(root)
    with pytest.raises(NotFound, match="near it: pdf-tools"):
        catalog.get("pdf-tool")
    with pytest.raises(NotFound, match="custody skills list"):
        catalog.get("qqqqq")


def test_search_reads_the_text_last(root: Path):
    folder_skill(root, "pdf", {"SKILL.md": skill_text("pdf", "It can rotate pages.")})
    folder_skill(root, "rotate")
    assert [hit.skill.name for hit in load(root).search("rotate")] == ["rotate", "pdf"]


@pytest.mark.long
def test_a_root_of_too_many_entries_is_told_and_offers_nothing(root: Path):
    folder_skill(root, "pdf")
    for number in range(10_000):
        (root / f"file-{number}").touch()
    problem = only(load(root))
    assert problem.kind == "unreadable"
    assert "10,000 entries" in problem.message
    report = verify_root(shelf(root).roots[0], shelf(root), Trust(path=shelf(root).trust_file), NOW)
    assert (report.ok, report.problem) == (False, problem.message)
