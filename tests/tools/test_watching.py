"""A command's changes to files are told one by one; what can be taken back is, and what cannot says so."""

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import eventually
from tests.settings_for_tests import NEVER_SHORT
from tests.tools.trees import Place, cut_off, succeeded, tree

from custody.blocking import BlockingRuntime
from custody.files import Protected
from custody.records import Call, Version
from custody.tools import ProcessIO, Scope
from custody.tools.watching.clones import CannotClone, Clones
from custody.tools.watching.listing import FOLDER_ENTRIES_MAX, differences, list_folders
from custody.tools.watching.watch import watched_folders


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def runtime(place: Place) -> Iterator[BlockingRuntime]:
    with place.open() as runtime:
        yield runtime


def shell(runtime: BlockingRuntime, line: str, **options: Any) -> Call:
    cwd = options.pop("cwd", None)
    return runtime.call("shell", {"command": line, **({} if cwd is None else {"cwd": str(cwd)})}, **options)


def told(call: Call, folder: Path) -> list[tuple[str, ...]]:
    """Change, kind and path of each, and where from."""
    assert call.changes is not None, call
    assert call.changes_count == len(call.changes)
    return [
        (
            change.change,
            change.kind,
            *(os.path.relpath(path, folder) for path in (change.path, change.renamed_from) if path),
        )
        for change in call.changes
    ]


def changes(call: Call) -> list[Any]:
    assert call.changes is not None, call
    return list(call.changes)


def shares_blocks(folder: Path) -> bool:
    """Whether these files can be cloned, so that old content is kept."""
    try:
        Clones(str(folder)).close()
    except CannotClone:
        return False
    return True


# -- what is told ---------------------------------------------------------------------------------------


def test_every_kind_of_change_is_told_exactly(place: Place, runtime: BlockingRuntime):
    (place.work / "sub").mkdir()
    for name in ("stays", "grows", "same_size", "goes", "moves", "private", "sub/moves_up"):
        (place.work / name).write_text("old\n")
    for name in ("repointed", "link_stays"):
        (place.work / name).symlink_to("stays")
    (place.work / "replaced").write_text("old\n")
    (place.work / "becomes_folder").write_text("old\n")

    call = shell(
        runtime,
        "echo more >> grows; echo new > same_size; rm goes; mv moves moved; chmod 600 private;"
        "ln -sfn grows repointed; mkdir -p deep/er; echo x > deep/er/new; ln -s deep pointer; mkfifo pipe;"
        "echo new > .n; mv .n replaced; mv sub/moves_up up; rm becomes_folder; mkdir becomes_folder",
    )

    assert call.outcome == "succeeded"
    assert told(call, place.work) == [
        ("modified", "directory", "becomes_folder"),
        ("created", "directory", "deep"),
        ("created", "directory", "deep/er"),
        ("created", "file", "deep/er/new"),
        ("deleted", "file", "goes"),
        ("modified", "file", "grows"),
        ("renamed", "file", "moved", "moves"),
        ("created", "other", "pipe"),
        ("created", "link", "pointer"),
        ("mode", "file", "private"),
        ("modified", "file", "replaced"),
        ("link", "link", "repointed"),
        ("modified", "file", "same_size"),
        ("renamed", "file", "up", "sub/moves_up"),
    ]
    assert runtime.index.call(call.id).changes == call.changes


def test_versions_say_what_was_there_and_what_is(place: Place, runtime: BlockingRuntime):
    (place.work / "file").write_text("old\n")
    (place.work / "file").chmod(0o640)
    (place.work / "link").symlink_to("file")

    mode, link = changes(shell(runtime, "chmod 600 file; ln -sfn elsewhere link"))
    (made,) = changes(shell(runtime, "umask 022; printf abc > made"))

    digest = hashlib.sha256(b"old\n").hexdigest()
    assert (mode.before, mode.after) == (
        Version(bytes=4, sha256=digest, mode="0640"),
        Version(bytes=4, sha256=digest, mode="0600"),
    )
    assert (link.before and link.before.target, link.after and link.after.target) == ("file", "elsewhere")
    assert (made.before, made.after) == (
        None,
        Version(bytes=3, sha256=hashlib.sha256(b"abc").hexdigest(), mode="0644"),
    )


@pytest.mark.parametrize("line", ["true", "cat a; ls -lR; grep -r x .", "mkdir d; touch d/e; rm -r d"])
def test_a_command_that_leaves_everything_as_it_was_tells_no_change(
    place: Place, runtime: BlockingRuntime, line: str
):
    for number in range(100):  # more than are listed without a thread
        (place.work / f"a{number or ''}").write_text("x")

    call = shell(runtime, line)

    assert (call.outcome, call.changes, call.changes_count) == ("succeeded", (), 0)
    assert "unwatched" not in call.result


def test_an_empty_folder_is_watched_by_exec_too(place: Place, runtime: BlockingRuntime):
    assert runtime.call("exec", {"argv": ["true"]}).changes == ()
    assert told(runtime.call("exec", {"argv": ["touch", "a"]}), place.work) == [("created", "file", "a")]


def test_another_name_of_a_file_is_no_change_of_the_file(place: Place, runtime: BlockingRuntime):
    (place.work / "a").write_text("x")

    assert told(shell(runtime, "ln a b"), place.work) == [("created", "file", "b")]


def test_a_new_file_under_the_inode_of_a_deleted_one_is_no_rename(place: Place, runtime: BlockingRuntime):
    (place.work / "a").write_text("x")

    assert told(shell(runtime, "rm a; echo y > b"), place.work) == [
        ("deleted", "file", "a"),
        ("created", "file", "b"),
    ]


def test_a_renamed_folder_is_told_with_all_that_is_in_it(place: Place, runtime: BlockingRuntime):
    (place.work / "old" / "sub").mkdir(parents=True)
    (place.work / "old" / "sub" / "file").write_text("x")

    assert told(shell(runtime, "mv old new; echo y > new/more"), place.work) == [
        ("renamed", "directory", "new", "old"),
        ("created", "file", "new/more"),
        ("renamed", "directory", "new/sub", "old/sub"),
        ("renamed", "file", "new/sub/file", "old/sub/file"),
    ]


def test_a_write_that_puts_the_time_back_does_not_go_unseen(place: Place, runtime: BlockingRuntime):
    (place.work / "a").write_text("x")
    (place.work / "reference").write_text("")

    call = shell(runtime, "touch -r a reference; printf y > a; touch -r reference a; rm reference")

    assert ("mode", "file", "a") in told(call, place.work)
    assert [change.undoable for change in changes(call) if change.path.endswith("/a")] == [False]


def test_names_that_are_no_text_are_told(place: Place, runtime: BlockingRuntime):
    call = shell(runtime, r"""touch "$(printf 'b\377d')" 'two words' "$(printf 'line\nbreak')" """)

    assert [name for *_, name in told(call, place.work)] == ["b\udcffd", "line\nbreak", "two words"]
    assert runtime.index.call(call.id).changes == call.changes


def test_a_command_that_deletes_its_own_folder_tells_what_was_in_it(place: Place, runtime: BlockingRuntime):
    (place.work / "a").write_text("x")

    assert told(shell(runtime, 'rm -r "$PWD"'), place.work) == [("deleted", "file", "a")]


def test_a_command_killed_at_its_deadline_tells_what_it_had_changed(place: Place, runtime: BlockingRuntime):
    def hang(seconds: float) -> Call:
        (place.work / "made").unlink(missing_ok=True)
        return shell(runtime, "echo x > made; exec sleep 4321", timeout=seconds)

    call = cut_off(hang, lambda call: call.changes)

    assert (call.outcome, told(call, place.work)) == ("timed_out", [("created", "file", "made")])


def test_a_command_whose_launcher_was_killed_tells_what_it_had_changed(
    place: Place, runtime: BlockingRuntime
):
    call = shell(runtime, "echo x > made; kill -9 $PPID; exec sleep 4321")

    assert (call.outcome, told(call, place.work)) == ("unknown", [("created", "file", "made")])


def test_a_command_that_never_ran_or_only_would_have_tells_nothing(runtime: BlockingRuntime):
    assert runtime.call("exec", {"argv": ["no-such-program-here"]}).changes is None
    assert shell(runtime, "echo x > made", dry_run=True).changes is None


def test_a_failed_command_tells_its_changes(place: Place, runtime: BlockingRuntime):
    call = shell(runtime, "echo x > made; exit 3")

    assert (call.outcome, told(call, place.work)) == ("failed", [("created", "file", "made")])


def test_what_somebody_else_writes_meanwhile_is_told_as_the_commands(place: Place, runtime: BlockingRuntime):
    """The limit of looking from outside. Who needs to tell them apart gives each a folder of its own."""
    ready = threading.Event()

    def write() -> None:
        assert ready.wait(30)
        (place.work / "somebody_elses").write_text("x")

    writer = threading.Thread(target=write)
    writer.start()
    call = shell(
        runtime,
        "echo go; until [ -e somebody_elses ]; do sleep 0.01; done",
        io=ProcessIO(on_output=lambda stream, data: ready.set()),
    )
    writer.join()

    assert told(call, place.work) == [("created", "file", "somebody_elses")]


# -- where is looked, and how far ------------------------------------------------------------------------


def test_the_temporary_folder_is_not_looked_into_from_elsewhere(place: Place, runtime: BlockingRuntime):
    call = shell(runtime, 'echo x > "$TMPDIR/theirs"; echo x > mine')

    assert (place.temporary / "theirs").exists()
    assert told(call, place.work) == [("created", "file", "mine")]


def test_in_the_temporary_folder_only_the_working_directory_is_looked_into(
    place: Place, runtime: BlockingRuntime
):
    job = place.temporary / "job"
    job.mkdir()

    call = shell(runtime, "echo x > ../theirs; echo x > mine", cwd=job)

    assert told(call, job) == [("created", "file", "mine")]


def test_a_root_that_was_given_is_looked_into(place: Place):
    with place.open(roots=[str(place.outside)]) as runtime:
        call = shell(runtime, "echo x > mine; echo x > ../outside/there; mv a ../outside/b 2>&- || true")

        assert told(call, place.work) == [
            ("created", "file", "../outside/there"),
            ("created", "file", "mine"),
        ]
        moved = shell(runtime, "mv mine ../outside/moved")
        assert told(moved, place.work) == [("renamed", "file", "../outside/moved", "mine")]


def test_the_root_nearest_to_the_working_directory_comes_first(tmp_path: Path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    scope = Scope(str(inner), (str(tmp_path), str(tmp_path / "a")), Protected)

    assert watched_folders(scope) == (str(tmp_path / "a"), str(tmp_path))
    listing = list_folders(watched_folders(scope))
    assert list(listing.folders) == [str(tmp_path / "a"), str(inner), str(tmp_path)]


def test_links_are_not_followed_out_of_the_root(place: Place, runtime: BlockingRuntime):
    (place.work / "way_out").symlink_to(place.outside)

    assert shell(runtime, "echo x > way_out/there").changes == ()


def test_another_file_system_is_not_entered():
    listing = list_folders(["/"], entries_max=1_000)

    assert os.stat("/proc").st_dev != os.stat("/").st_dev
    assert [folder for folder in (*listing.folders, *listing.beyond) if folder.startswith("/proc")] == []


def test_what_package_managers_fill_is_told_as_one(place: Place, runtime: BlockingRuntime):
    (place.work / "node_modules" / "a").mkdir(parents=True)

    assert shell(runtime, "echo x > node_modules/a/index.js").changes == ()

    call = shell(
        runtime, "mkdir -p new/node_modules/b other; echo x > new/node_modules/b/i.js; echo y > other/f"
    )
    assert told(call, place.work) == [
        ("created", "directory", "new"),
        ("created", "directory", "new/node_modules"),
        ("created", "directory", "other"),
        ("created", "file", "other/f"),
    ]
    assert [change.undoable for change in changes(call)] == [False, False, True, True]


def test_a_commit_is_told_by_its_refs_and_not_by_its_objects(place: Place, runtime: BlockingRuntime):
    git = "git -c user.name=a -c user.email=a@example.com -c commit.gpgsign=false"
    succeeded(shell(runtime, "git init -q -b main; echo x > file"))

    call = shell(runtime, f"git add file && {git} commit -q -m first")

    names = {name for *_, name in told(call, place.work)}
    assert {".git/index", ".git/refs/heads/main"} <= names
    assert [name for name in names if name.startswith((".git/objects/", ".git/logs/"))] == []


def test_the_store_in_the_workspace_is_custodys_own_business(place: Place):
    place.store = place.work / "store"
    with place.open() as runtime:
        shell(runtime, "true")
        assert told(shell(runtime, "echo x > made"), place.work) == [("created", "file", "made")]


def test_beyond_the_bound_the_nearest_is_told_and_the_rest_is_named(place: Place, runtime: BlockingRuntime):
    big = place.work / "big"
    big.mkdir()
    (big / "first").touch()
    for number in range(FOLDER_ENTRIES_MAX):
        os.link(big / "first", big / str(number))  # quicker made than files

    call = shell(runtime, "echo x > near; echo x > big/far")

    assert told(call, place.work) == [("created", "file", "near")]
    assert call.result["unwatched"].startswith(f"1 folder was not looked into ({big} the first)")
    assert runtime.index.call(call.id).result["unwatched"] == call.result["unwatched"]


def test_a_listing_that_was_cut_short_says_nothing_of_what_it_did_not_see(tmp_path: Path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        for number in range(10):
            (tmp_path / folder / f"file{number}").touch()
    root = str(tmp_path)
    whole, part = list_folders([root]), list_folders([root], entries_max=15)

    assert len(part.beyond) == 2
    assert differences(whole, part) == differences(part, whole) == differences(whole, whole) == []
    assert list_folders([root], entries_max=2).folders == {}
    assert list_folders([root], cpu_seconds=0).beyond == [root]
    assert list_folders([root], wall_seconds=0).beyond == [root]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(place: Place, runtime: BlockingRuntime):
    locked = place.work / "locked"
    locked.mkdir(mode=0o300)

    call = shell(runtime, "echo x > locked/there; echo x > here")

    assert told(call, place.work) == [("created", "file", "here")]
    assert str(locked) in call.result["unwatched"]


def test_off_by_setting(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    settings = tmp_path / "custody.toml"
    settings.write_text(NEVER_SHORT + "[files]\nwatch = false\n")
    monkeypatch.setenv("CUSTODY_CONFIG", str(settings))
    with place.open() as runtime:
        call = shell(runtime, "echo x > made")

    assert (call.outcome, call.changes, call.changes_count) == ("succeeded", None, None)
    assert "unwatched" not in call.result


def test_watching_leaves_no_descriptor_open(place: Place, runtime: BlockingRuntime):
    for number in range(100):
        (place.work / f"a{number}").write_text("x")
    shell(runtime, "echo x > a0")
    before = os.listdir("/proc/self/fd")

    for number in range(10):
        shell(runtime, f"echo y > a{number}; echo z > b{number}")

    eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))


# -- what can be taken back ------------------------------------------------------------------------------


def undo(runtime: BlockingRuntime, call: Call, **options: Any) -> Call:
    return runtime.call("undo", {"call": call.id, **options})


def test_what_was_created_renamed_and_given_attributes_is_taken_back(place: Place, runtime: BlockingRuntime):
    (place.work / "old" / "sub").mkdir(parents=True)
    (place.work / "old" / "sub" / "file").write_text("content\n")
    (place.work / "private").write_text("x")
    (place.work / "link").symlink_to("private")
    (place.work / "empty").touch()
    before = tree(place.work)

    call = shell(
        runtime,
        "mkdir -p made/deep; echo x > made/deep/file; ln -s x made/link; mv old new; chmod 400 private;"
        "ln -sfn elsewhere link; rm empty; rmdir nothing 2>&- || true",
    )
    assert all(change.undoable for change in changes(call)), call.changes
    succeeded(undo(runtime, call))

    assert without_times(tree(place.work)) == without_times(before)


def test_what_a_command_created_is_not_removed_once_it_was_changed(place: Place, runtime: BlockingRuntime):
    call = shell(runtime, "echo x > made")
    (place.work / "made").write_text("somebody's work\n")

    refused = undo(runtime, call)

    assert (refused.outcome, refused.error and refused.error["type"]) == ("failed", "UndoConflict")
    assert (place.work / "made").read_text() == "somebody's work\n"


def test_what_was_overwritten_or_deleted_says_whether_it_can_be_taken_back(
    place: Place, runtime: BlockingRuntime
):
    for name in ("changed", "deleted"):
        (place.work / name).write_text("old\n")

    call = shell(runtime, "echo new > changed; rm deleted; echo x > made")

    kept = shares_blocks(place.work)
    assert [change.undoable for change in changes(call)] == [kept, kept, True]
    assert (undo(runtime, call).outcome == "succeeded") is kept
    assert undo(runtime, call, force=True).outcome == ("failed" if kept else "succeeded")
    assert (place.work / "made").exists() is False
    assert (place.work / "changed").read_text() == ("old\n" if kept else "new\n")


def test_a_file_moved_over_another_is_brought_back_and_the_other_is_lost(
    place: Place, runtime: BlockingRuntime
):
    (place.work / "a").write_text("a\n")
    (place.work / "b").write_text("b\n")

    deleted, modified = changes(shell(runtime, "mv a b"))

    assert (deleted.change, deleted.undoable) == ("deleted", True)
    assert (modified.change, modified.undoable) == ("modified", shares_blocks(place.work))


def test_the_digest_of_a_secret_file_is_not_told(place: Place, runtime: BlockingRuntime):
    made, other = changes(shell(runtime, "echo pin=1234 > .env; echo pin=1234 > notes"))

    assert made.after is not None and other.after is not None
    assert (made.after.sha256, made.undoable) == (None, True)
    assert other.after.sha256 is not None


def without_times(found: dict[bytes, dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
    """Folders apart: a command's changes to their times are nobody's to put back."""
    return {
        name: {key: value for key, value in entry.items() if key != "mtime_ns" or "content" in entry}
        for name, entry in found.items()
    }


# -- on a file system that shares blocks between files ---------------------------------------------------

IMAGE_BYTES = {"xfs": 320 * 1024**2, "btrfs": 128 * 1024**2}  # the least that mkfs takes; the file is sparse


@pytest.fixture(params=sorted(IMAGE_BYTES))
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place whose working directory is on such a file system."""
    name = request.param
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if shutil.which(f"mkfs.{name}") is None:
        pytest.skip(f"there is no mkfs.{name}")
    place, image = Place(tmp_path), tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES[name])
    subprocess.run([f"mkfs.{name}", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place.work], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a loop device cannot be mounted here: {mounted.stderr.strip()}")
    try:
        if not shares_blocks(place.work):
            pytest.skip(f"this {name} shares no blocks")
        yield place
    finally:
        subprocess.run(["umount", place.work], check=True)


def test_where_blocks_are_shared_old_content_is_kept_and_brought_back(sharing: Place):
    work = sharing.work
    (work / "sub").mkdir()
    for name, size in {
        "small": 5,
        "block": 4096,
        "odd": 10_001,
        "large": 3_000_000,
        "sub/goes": 70_000,
    }.items():
        (work / name).write_bytes(os.urandom(size))
        (work / name).chmod(0o640)
    os.setxattr(work / "odd", "user.note", b"kept")
    before = tree(work)

    with sharing.open() as runtime:
        call = shell(
            runtime,
            "ls -A; echo x > small; printf y | dd of=block conv=notrunc bs=1 seek=7 2>&-; : > odd;"
            "echo more >> large; rm -r sub; cp large odd",
        )
        assert call.result["stdout"].split() == sorted(("small", "block", "odd", "large", "sub"))
        assert all(change.undoable for change in changes(call)), call.changes
        succeeded(undo(runtime, call))

    assert without_times(tree(work)) == without_times(before)


def test_where_blocks_are_shared_a_touch_is_told_with_the_same_content(sharing: Place):
    (sharing.work / "a").write_text("x")
    with sharing.open() as runtime:
        (touched,) = changes(shell(runtime, "touch -d yesterday a"))

    assert touched.change == "modified"
    assert touched.before is not None and touched.after is not None
    assert touched.before.sha256 == touched.after.sha256 is not None
