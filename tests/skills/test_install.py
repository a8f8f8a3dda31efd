"""What may be put in place, replaced and removed, and what becomes of a change that was cut short."""

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest
from tests.skills.installing import (
    FaultyOperations,
    Killed,
    hidden,
    is_sound,
    judged,
    locked,
    make_skill,
    seen,
    shelf_of,
    skill_text,
)

from custody.errors import InvalidInput, InvalidSkill, LockUnusable, NotFound, ToolError
from custody.skills import Shelf, Trust, load_catalog
from custody.skills.file_operations import FileOperations
from custody.skills.install import check_look_alikes, foresee, place, recover, remove
from custody.skills.lock import LOCK_FILE
from custody.skills.signing import new_private_key, sign_tree, verifier_line
from custody.skills.staging import Staged
from custody.skills.transaction import INTENT, WRITER_LOCK, Stopped
from custody.skills.tree import TreeBounds, read_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "skills"


@pytest.fixture
def shelf(root: Path) -> Shelf:
    return shelf_of(root)


def put(root: Path, source: Path, **how: object) -> object:
    return place(judged(source, shelf_of(root)), os.fspath(root), **how)  # pyright: ignore[reportArgumentType]


def test_folders_and_files_stand_in_one_lock_by_their_paths(tmp_path: Path, root: Path, shelf: Shelf):
    put(root, make_skill(tmp_path / "a", "pdf"))
    put(root, make_skill(tmp_path / "b", "word", extra="more"))
    notes = tmp_path / "notes.md"
    notes.write_text(skill_text("notes"), encoding="utf-8")
    put(root, notes)
    assert list(locked(root)) == ["notes.md", "pdf", "word"]
    assert is_sound(root)
    assert [skill.name for skill in load_catalog(shelf).skills] == ["notes", "pdf", "word"]
    assert hidden(root) == []
    assert (root / "pdf" / "scripts" / "run").stat().st_mode & 0o777 == 0o755
    root.rename(tmp_path / "moved")
    assert is_sound(tmp_path / "moved")


def test_the_same_files_again_change_nothing(tmp_path: Path, root: Path):
    source = make_skill(tmp_path, "pdf")
    put(root, source)
    before, times = seen(root), os.stat(root / "pdf").st_mtime_ns
    placed = place(judged(source, shelf_of(root)), os.fspath(root))
    assert (placed.unchanged, placed.adopted, placed.replaced) == (True, False, None)
    assert (seen(root), os.stat(root / "pdf").st_mtime_ns) == (before, times)


def test_other_files_in_its_place_are_replaced_only_where_that_is_said(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path / "old", "pdf", "the old way", gone="gone"))
    old, before = locked(root)["pdf"], seen(root)
    new = judged(make_skill(tmp_path / "new", "pdf", "the new way"), shelf_of(root))
    with pytest.raises(ToolError, match="is there already and differs"):
        place(new, os.fspath(root))
    assert seen(root) == before
    assert foresee(new, os.fspath(root), replace=True, bounds=TreeBounds()).replaced == old
    assert place(new, os.fspath(root), replace=True).replaced == old
    assert locked(root) == {"pdf": new.tree.digest}
    assert not (root / "pdf" / "gone").exists()
    assert is_sound(root)


def test_a_folder_made_by_hand_is_adopted_as_it_stands(root: Path):
    skill = make_skill(root, "pdf")
    node = os.stat(skill).st_ino
    placed = place(judged(skill, shelf_of(root)), os.fspath(root))
    assert placed.adopted
    assert os.stat(skill).st_ino == node
    assert is_sound(root)


@pytest.mark.parametrize("there", ["file", "link", "pipe", "folder"])
def test_what_is_no_skill_is_never_replaced(tmp_path: Path, root: Path, there: str):
    root.mkdir()
    if there == "file":
        (root / "pdf").write_text("mine", encoding="utf-8")
    elif there == "link":
        (root / "pdf").symlink_to(tmp_path)
    elif there == "folder":
        (root / "pdf" / "work").mkdir(parents=True)
        (root / "pdf" / "work" / "notes.txt").write_text("mine", encoding="utf-8")
    else:
        os.mkfifo(root / "pdf")
    with pytest.raises(ToolError, match="left alone"):
        put(root, make_skill(tmp_path, "pdf"), replace=True)
    assert hidden(root) == []
    assert list(locked(root)) == []


def test_what_is_left_of_an_installed_skill_is_replaced(tmp_path: Path, root: Path):
    source = make_skill(tmp_path, "pdf")
    put(root, source)
    (root / "pdf" / "SKILL.md").unlink()
    assert put(root, source, replace=True)
    assert is_sound(root)


def test_a_pipe_in_the_place_of_the_writers_lock_is_not_waited_for(tmp_path: Path, root: Path):
    root.mkdir()
    os.mkfifo(root / WRITER_LOCK)
    assert load_catalog(shelf_of(root)).skills == ()
    put(root, make_skill(tmp_path, "pdf"))
    assert is_sound(root)
    assert hidden(root) == []


def test_a_broken_folder_is_replaced_where_that_is_said(tmp_path: Path, root: Path):
    (make_skill(root, "pdf") / "link").symlink_to("/etc/passwd")
    placed = place(judged(make_skill(tmp_path, "pdf"), shelf_of(root)), os.fspath(root), replace=True)
    assert placed.replaced == "unknown"
    assert is_sound(root)
    assert Path("/etc/passwd").exists()


def test_a_file_and_a_folder_do_not_share_a_name(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path, "pdf"))
    notes = tmp_path / "pdf.md"
    notes.write_text(skill_text("pdf"), encoding="utf-8")
    with pytest.raises(ToolError, match="has that name already"):
        put(root, notes, replace=True)


@pytest.mark.parametrize("name", ["PDF-1", "pdf-l", "pdf_1", "pdf.i"])
def test_a_look_alike_is_refused_in_every_root(tmp_path: Path, root: Path, name: str):
    put(root, make_skill(tmp_path / "a", "pdf-1"))
    with pytest.raises(InvalidInput, match="would be taken for 'pdf-1'"):
        put(root, make_skill(tmp_path / "b", name))
    with pytest.raises(InvalidInput, match="would be taken for 'pdf-1'"):
        check_look_alikes(name, shelf_of(tmp_path / "another", root))


@pytest.mark.parametrize(
    "lock",
    [
        b'{"schema_version":2,"skills":{}}',
        b'{"schema_version":1,"skills":{},"skills":{}}',
        b"not json",
        b'{"schema_version":1,"skills":{"../x":{}}}',
    ],
    ids=["newer", "twice", "no JSON", "path"],
)
def test_a_lock_that_cannot_be_read_is_never_written_over(tmp_path: Path, root: Path, lock: bytes):
    make_skill(root, "word")
    (root / LOCK_FILE).write_bytes(lock)
    before = seen(root)
    with pytest.raises(LockUnusable):
        put(root, make_skill(tmp_path, "pdf"))
    with pytest.raises(LockUnusable):
        remove(os.fspath(root), "word")
    assert seen(root) == before
    assert hidden(root) == []


def test_what_changed_since_it_was_looked_at_is_not_put_in_place(tmp_path: Path, root: Path):
    source = make_skill(tmp_path, "pdf")
    skill = judged(source, shelf_of(root))
    (source / "scripts" / "run").write_text("#!/bin/sh\necho something else\n", encoding="utf-8")
    with pytest.raises(ToolError, match="changed after it was looked at"):
        place(skill, os.fspath(root))
    assert not root.exists()


def test_what_is_not_the_digest_that_was_expected_is_refused(tmp_path: Path, root: Path):
    source = make_skill(tmp_path, "pdf")
    digest = read_tree(os.fspath(source), TreeBounds()).digest
    assert judged(source, shelf_of(root), digest=digest).tree.digest == digest
    with pytest.raises(ToolError, match="not what was expected"):
        judged(source, shelf_of(root), digest="sha256:" + "0" * 64)


def test_it_can_be_stopped_until_it_counts(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path / "old", "pdf", "the old way"))
    before = seen(root)
    new = judged(make_skill(tmp_path / "new", "pdf", "the new way"), shelf_of(root))
    with pytest.raises(Stopped):
        place(new, os.fspath(root), replace=True, stop=lambda: True)
    assert seen(root) == before
    assert hidden(root) == []


def test_a_root_that_is_a_file_or_cannot_be_written_is_named(tmp_path: Path):
    source = make_skill(tmp_path, "pdf")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(ToolError, match="file cannot be changed"):
        put(tmp_path / "file", source)
    with pytest.raises(ToolError, match="cannot be changed"):
        put(tmp_path / "file" / "below", source)


def test_a_root_may_be_a_link(tmp_path: Path, root: Path):
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to(tmp_path / "elsewhere")
    put(root, make_skill(tmp_path, "pdf"))
    assert is_sound(tmp_path / "elsewhere")
    assert root.is_symlink()


def test_two_installs_at_once_both_count(tmp_path: Path, root: Path):
    skills = [judged(make_skill(tmp_path / str(each), f"skill-{each}"), shelf_of(root)) for each in "abcdef"]
    root.mkdir()
    errors: list[BaseException] = []

    def install(skill: Staged) -> None:
        try:
            place(skill, os.fspath(root))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=install, args=(skill,)) for skill in skills]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(locked(root)) == len(skills)
    assert is_sound(root)
    assert hidden(root) == []


# -- signatures -------------------------------------------------------------------------------------------


def signed(tmp_path: Path, shelf: Shelf, source: Path, *, trusted: bool = True) -> Path:
    key = new_private_key(os.fspath(tmp_path / "key.pem"))
    if trusted:
        Trust.load(shelf.trust_file).add(verifier_line(key, "example.com/skills"))
    digest = read_tree(os.fspath(source), shelf.bounds).digest
    beside = source / "SKILL.sig" if source.is_dir() else Path(f"{source}.sig")
    beside.write_bytes(sign_tree(digest, source.stem, key, "example.com/skills"))
    return source


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_signature_comes_along_and_is_in_the_lock(tmp_path: Path, root: Path, shelf: Shelf, kind: str):
    if kind == "folder":
        source = make_skill(tmp_path, "pdf")
    else:
        source = tmp_path / "notes.md"
        source.write_text(skill_text("notes"), encoding="utf-8")
    skill = judged(signed(tmp_path, shelf, source), shelf, require_signed=True)
    place(skill, os.fspath(root))
    entry = json.loads((root / LOCK_FILE).read_text())["skills"][source.name]
    assert entry["signature"]["key_id"] == "example.com/skills"
    assert is_sound(root)
    demanding = msgspec.structs.replace(shelf, require_signed=True)
    assert [each.signed_by for each in load_catalog(demanding).skills] == ["example.com/skills"]
    remove(os.fspath(root), source.stem)
    assert list(seen(root)) == [LOCK_FILE]


def test_what_nobody_trusted_signed_is_refused_where_that_is_demanded(
    tmp_path: Path, root: Path, shelf: Shelf
):
    source = make_skill(tmp_path, "pdf")
    with pytest.raises(ToolError, match="unsigned"):
        judged(source, shelf, require_signed=True)
    signed(tmp_path, shelf, source, trusted=False)
    with pytest.raises(ToolError, match="untrusted"):
        judged(source, msgspec.structs.replace(shelf, require_signed=True))
    assert judged(source, shelf).verdict.reason == "untrusted"


def test_files_that_their_own_signature_is_not_for_are_always_refused(tmp_path: Path, shelf: Shelf):
    source = signed(tmp_path, shelf, make_skill(tmp_path, "pdf"))
    (source / "scripts" / "run").write_text("#!/bin/sh\necho something else\n", encoding="utf-8")
    with pytest.raises(ToolError, match="other_digest"):
        judged(source, shelf)


# -- removing -----------------------------------------------------------------------------------------------


def test_removing_takes_the_files_and_the_entry(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path / "a", "pdf"))
    put(root, make_skill(tmp_path / "b", "word"))
    removed = remove(os.fspath(root), "pdf")
    assert (removed.path, removed.left) == ("pdf", ())
    assert list(locked(root)) == ["word"]
    assert not (root / "pdf").exists()
    assert is_sound(root)
    with pytest.raises(NotFound):
        remove(os.fspath(root), "pdf")


def test_an_entry_whose_files_are_gone_can_be_removed(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path, "pdf"))
    (root / "pdf").rename(tmp_path / "gone")
    remove(os.fspath(root), "pdf")
    assert locked(root) == {}


def test_what_was_not_installed_is_not_removed(root: Path):
    make_skill(root, "pdf")
    with pytest.raises(NotFound, match="not in its lock"):
        remove(os.fspath(root), "pdf")
    assert (root / "pdf").exists()


# -- cut short ----------------------------------------------------------------------------------------------


def cut(root: Path, source: Path, after: str, *, replace: bool = False) -> None:
    """Install until the rename that leaves the root with `after`, then die."""

    class Dying(FileOperations):
        dead = False

        def rename(self, folder_fd: int, name: str, new_name: str, *, over: bool = False) -> None:
            if self.dead:
                raise Killed
            super().rename(folder_fd, name, new_name, over=over)
            if new_name == after:
                self.dead = True
                raise Killed

        def remove(self, folder_fd: int, name: str, kind: object) -> None:
            raise Killed

    with pytest.raises(Killed):
        put(root, source, replace=replace, operations=Dying())


def test_what_somebody_made_of_a_skill_meanwhile_is_kept(tmp_path: Path, root: Path):
    cut(root, make_skill(tmp_path, "pdf"), after="pdf")
    (root / "pdf" / "SKILL.md").write_text(skill_text("pdf", "my own words"), encoding="utf-8")
    recovered = recover(os.fspath(root))
    assert recovered is not None
    assert (recovered.finished, recovered.kept) == (False, ("pdf",))
    assert "my own words" in (root / "pdf" / "SKILL.md").read_text(encoding="utf-8")
    assert hidden(root) == []


def test_where_the_old_belongs_there_it_is_kept_under_another_name(tmp_path: Path, root: Path):
    put(root, make_skill(tmp_path / "old", "pdf", "the old way"))
    before = seen(root)
    cut(root, make_skill(tmp_path / "new", "pdf", "the new way"), after="pdf", replace=True)
    (root / "pdf" / "SKILL.md").write_text(skill_text("pdf", "my own words"), encoding="utf-8")
    for at in range(1, 12):
        kill = FaultyOperations(lambda count, at=at: Killed() if count >= at else None, late=True)
        try:
            recover(os.fspath(root), operations=kill)
        except Killed:
            continue
        break
    recover(os.fspath(root))
    assert seen(root) == before
    [kept] = hidden(root)
    assert "my own words" in (root / kept / "SKILL.md").read_text(encoding="utf-8")


def test_a_look_at_a_root_where_nothing_was_cut_changes_nothing(tmp_path: Path, root: Path):
    assert recover(os.fspath(root)) is None
    put(root, make_skill(tmp_path, "pdf"))
    assert recover(os.fspath(root)) is None


@pytest.mark.parametrize(
    "intent",
    [
        b"not json",
        b'{"skill":"x","lock":"../outside","moves":[],"digest":null}',
        (
            b'{"skill":"x","lock":".custody-skill-lock-0123456789abcdef","digest":null,"moves":'
            b'[{"place":"..","new":null,"old":".custody-skill-old-0123456789abcdef"}]}'
        ),
        (
            b'{"skill":"x","lock":".custody-skill-lock-0123456789abcdef","digest":null,"moves":'
            b'[{"place":"pdf","new":null,"old":"word"}]}'
        ),
    ],
    ids=["no JSON", "lock outside", "place outside", "another skill"],
)
def test_an_intent_that_custody_did_not_write_is_not_followed(tmp_path: Path, root: Path, intent: bytes):
    put(root, make_skill(tmp_path / "a", "pdf"))
    put(root, make_skill(tmp_path / "b", "word"))
    (root / INTENT).write_bytes(intent)
    before = seen(root)
    with pytest.raises(ToolError, match="was not written by Custody"):
        put(root, make_skill(tmp_path / "c", "third"))
    with pytest.raises(ToolError, match="was not written by Custody"):
        recover(os.fspath(root))
    assert seen(root) == before


def test_no_skill_without_a_description_or_with_front_matter_that_does_not_end(tmp_path: Path, shelf: Shelf):
    source = make_skill(tmp_path, "pdf")
    for text in ("no front matter", "---\nname: pdf\n---\n", "---\ndescription: x\n"):
        (source / "SKILL.md").write_text(text, encoding="utf-8")
        with pytest.raises(InvalidSkill):
            judged(source, shelf)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "", "a/b", "CON", "a\0b", "x" * 300, "..", ".hidden", "skills.lock.json"]
)
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, root: Path, shelf: Shelf, name: str):
    with pytest.raises(InvalidInput):
        judged(make_skill(tmp_path, "pdf"), shelf, name=name or ".")
    assert not root.exists()
