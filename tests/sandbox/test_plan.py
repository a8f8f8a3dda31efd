"""What a launcher is told of its walls: what is kept, covered, allowed and refused, for one call's roots."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from custody.errors import SandboxError
from custody.sandbox.launcher import confine
from custody.sandbox.walls.machine import Machine, WallFinding
from custody.sandbox.walls.model import NAMED, Sandbox, View, is_beneath
from custody.sandbox.walls.plan import CLONE_NEWNET, PRIVATE_BYTES_MAX, WallPlan, plan_of

WRITE_FILE = 1 << 1
READ_FILE = 1 << 2


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "home"
    for name in (".cargo/bin", ".cargo/registry", ".ssh", ".aws", ".local/share/custody"):
        (folder / name).mkdir(parents=True)
    (folder / ".cargo/credentials.toml").write_text("token")
    (folder / "work").mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> str:
    folder = tmp_path.resolve() / "project"
    folder.mkdir()
    return str(folder)


@pytest.fixture
def machine(home: Path) -> Machine:
    """Root on a machine that has everything."""
    return Machine(
        architecture="x86_64",
        uid=0,
        homes=(str(home),),
        memory_bytes=16 * 1024**3,
        landlock_abi=7,
        namespaces="direct",
        uids=(70_000, 100),
        idmapped=True,
    )


def ordinary(machine: Machine) -> Machine:
    return replace(machine, uid=1000, namespaces="user", uids=None, idmapped=False)


def rights(plan: WallPlan, path: str) -> int:
    return dict(plan.landlock.rules).get(path, 0)


def test_a_root_is_the_only_place_of_the_machine_that_a_workspace_command_changes(machine, root):
    plan = plan_of(NAMED["workspace"], [root], root, machine)
    assert [keep for keep in plan.keep if keep[2] != "ro"] == [(root, root, "idmap")]
    covered = {place for place, _ in plan.cover}
    changed = {path for path, given in plan.landlock.rules if given & WRITE_FILE}
    assert {path for path in changed - covered if not path.startswith("/dev/")} == {root}
    assert "/usr" in plan.read_only and "/proc/sys" in plan.read_only
    assert not any(is_beneath(root, path) for path in plan.read_only)


def test_with_read_only_a_root_can_be_read_by_the_other_user_and_not_changed(machine, root):
    plan = plan_of(NAMED["read_only"], [root], root, machine)
    assert (root, root, "idmap") in plan.keep and root in plan.read_only
    assert rights(plan, root) & READ_FILE and not rights(plan, root) & WRITE_FILE
    own = plan_of(NAMED["read_only"], [root], root, ordinary(machine))
    assert (root, root, "ro") in own.keep


def test_what_is_listed_to_be_read_is_a_mount_that_cannot_be_changed(machine, root, home):
    work = str(home / "work")
    listing = Sandbox(name="more", roots="write", read=("/var", work, "/dev/null", "/"))
    plan = plan_of(replace(listing, read=listing.read[:3]), [root], root, ordinary(machine))
    assert {("/var", "/var", "ro"), (work, work, "ro")} <= set(plan.keep)
    assert "/dev/null" not in {source for source, _, _ in plan.keep}
    assert "/" not in {source for source, _, _ in plan_of(listing, [root], root, machine).keep}


def test_of_the_home_folder_only_programs_are_kept(machine, home, root):
    (home / ".nvm").symlink_to(home / ".ssh")
    plan = plan_of(NAMED["workspace"], [root], root, machine)
    kept = {source for source, _, _ in plan.keep if is_beneath(source, str(home))}
    assert kept == {str(home / ".cargo/bin"), str(home / ".cargo/registry")}
    assert str(home) in {place for place, _ in plan.cover}
    seen = [source for source, _, _ in plan.keep]
    for secret in (".ssh", ".aws", ".cargo/credentials.toml", ".local/share/custody"):
        assert not any(is_beneath(str(home / secret), path) for path in seen)


def test_a_root_below_the_home_folder_is_kept_and_the_rest_is_not(machine, home):
    work = str(home / "work")
    plan = plan_of(NAMED["workspace"], [work], work, machine)
    assert (work, work, "idmap") in plan.keep


def test_top_folders_that_hold_no_root_are_not_seen_at_all(machine, root):
    covered = {place for place, _ in plan_of(NAMED["workspace"], [root], root, machine).cover}
    assert {"/tmp", "/run", "/var"} <= covered
    assert not covered & {"/usr", "/etc", "/dev", "/proc", "/sys"}


def test_the_temporary_folder_is_no_root(machine, root):
    plan = plan_of(NAMED["workspace"], ["/tmp", root], root, machine)
    assert "/tmp" not in {source for source, _, _ in plan.keep}
    assert "/tmp" in {place for place, _ in plan.cover}


def test_what_a_sandbox_lists_is_the_machines_own(machine, root):
    listing = Sandbox(name="shared", roots="write", write=("/tmp",))
    plan = plan_of(listing, [root], root, machine)
    assert "/tmp" not in {place for place, _ in plan.cover}
    everything = plan_of(NAMED["open"], [root], root, machine)
    assert everything.cover == () and (root, root, "idmap") in everything.keep


@pytest.mark.parametrize("where", ["/", "/proc/self", "/dev"])
def test_a_root_that_no_command_may_have_is_refused(where, machine, root):
    with pytest.raises(SandboxError):
        plan_of(NAMED["workspace"], [where], root, machine)


def test_a_root_that_contains_the_home_folder_is_refused_and_the_hint_says_what_to_name(machine, home):
    for place in (home, home.parent):
        with pytest.raises(SandboxError) as refused:
            plan_of(NAMED["workspace"], [str(place)], str(home / "work"), machine)
        assert "further down" in (refused.value.hint or "")


def test_a_working_directory_that_would_not_be_there_is_refused(machine, home, root):
    with pytest.raises(SandboxError) as refused:
        plan_of(NAMED["workspace"], [root], str(home / "work"), machine)
    assert "--root" in (refused.value.hint or "")
    plan_of(NAMED["workspace"], [root], "/tmp", machine)
    plan_of(NAMED["workspace"], [root], "/usr/lib", machine)


def test_root_runs_commands_as_others_and_an_ordinary_user_as_himself(machine, root):
    users = {plan_of(NAMED["workspace"], [root], root, machine, number=n).uid for n in (0, 1, 99, 100)}
    assert users == {70_000, 70_001, 70_099}
    own = plan_of(NAMED["workspace"], [root], root, ordinary(machine))
    assert (own.uid, own.gid, own.user_namespace) == (None, None, True)
    assert (root, root, "rw") in own.keep


def test_a_command_stays_root_only_where_that_is_allowed(machine, root):
    bare = replace(machine, idmapped=False)
    with pytest.raises(SandboxError, match="would run as root"):
        plan_of(NAMED["workspace"], [root], root, bare)
    assert plan_of(NAMED["workspace"], [root], root, bare, stay_root=True).uid is None
    assert plan_of(NAMED["read_only"], [root], root, bare).uid == 70_000


def test_a_wall_that_is_missing_is_a_refusal_that_names_it(machine, root):
    missing = WallFinding(
        name="namespaces", has="no", why="it is not permitted (EPERM)", change="Allow them."
    )
    with pytest.raises(SandboxError, match="namespaces") as refused:
        plan_of(NAMED["workspace"], [root], root, replace(machine, findings=(missing,)))
    assert refused.value.hint == "Allow them."
    for lacking in ({"landlock_abi": 2}, {"namespaces": "none"}, {"architecture": "sparc"}):
        with pytest.raises(SandboxError):
            plan_of(NAMED["workspace"], [root], root, replace(machine, **lacking))


def test_the_network_is_the_runs_own_unless_it_is_open(machine, root):
    own = replace(NAMED["workspace"], name="own", network="loopback")
    none, loopback, opened = (
        plan_of(sandbox, [root], root, machine) for sandbox in (NAMED["read_only"], own, NAMED["network"])
    )
    assert (bool(none.namespaces & CLONE_NEWNET), none.loopback) == (True, False)
    assert (bool(loopback.namespaces & CLONE_NEWNET), loopback.loopback) == (True, True)
    assert (bool(opened.namespaces & CLONE_NEWNET), opened.loopback) == (False, False)
    assert not any(plan.listener for plan in (none, loopback, opened))


def test_what_is_listed_is_reached_by_a_listener_on_a_loopback_of_the_runs_own(machine, root):
    listing = replace(NAMED["workspace"], name="some", network="listed", hosts=("a.example",))
    plan = plan_of(listing, [root], root, machine)
    loopback = plan_of(replace(NAMED["workspace"], network="loopback"), [root], root, machine)
    assert (bool(plan.namespaces & CLONE_NEWNET), plan.loopback, plan.listener) == (True, True, True)
    assert (plan.landlock, plan.seccomp) == (loopback.landlock, loopback.seccomp)


def test_limits_are_the_narrowest_said_and_no_dump_leaves_the_walls(machine, root):
    sandbox = Sandbox(
        name="small", processes=50, memory_bytes=1000, limits={"nproc": 10, "core": -1, "fsize": 7}
    )
    limits = dict(plan_of(sandbox, [root], root, machine).limits)
    assert limits == {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 10,
        resource.RLIMIT_DATA: 1000,
        resource.RLIMIT_FSIZE: 7,
    }


def test_private_folders_take_a_bounded_share_of_the_memory(machine, root):
    def size(memory_bytes: int) -> int:
        found = plan_of(NAMED["workspace"], [root], root, replace(machine, memory_bytes=memory_bytes))
        return int(dict(found.cover)["/tmp"].split(",")[0].removeprefix("size="))

    assert size(2**50) == PRIVATE_BYTES_MAX
    assert size(1024**3) == 128 * 1024**2


# -- views ------------------------------------------------------------------------------------------------


def view_of(root: str, store: Path, kind: Literal["overlay", "copy"] = "overlay") -> View:
    number = str(len(os.listdir(store))) if store.is_dir() else "0"
    upper, work = store / number / "upper", store / number / "work"
    upper.mkdir(parents=True)
    return View(root=root, kind=kind, upper=str(upper), work=str(work) if kind == "overlay" else "")


@pytest.fixture
def store(home: Path) -> Path:
    return home / ".local/share/custody/held"


def test_an_overlay_takes_the_place_of_its_root_which_is_no_mount_any_more(machine, root, store):
    view = view_of(root, store)
    plan = plan_of(NAMED["workspace"], [root], root, machine, views=[view])
    bare = plan_of(NAMED["workspace"], [root], root, machine)
    assert plan.overlay == ((root, view.upper, view.work),)
    assert root not in {source for source, _, _ in plan.keep}
    assert (plan.landlock, plan.cover, plan.read_only) == (bare.landlock, bare.cover, bare.read_only)
    assert bare.overlay == ()


def test_a_copy_is_kept_in_the_place_of_its_root(machine, root, store):
    view = view_of(root, store, "copy")
    plan = plan_of(NAMED["workspace"], [root], root, machine, views=[view])
    assert (view.upper, root, "idmap") in plan.keep and plan.overlay == ()
    assert root not in {source for source, _, _ in plan.keep}
    own = plan_of(NAMED["workspace"], [root], root, ordinary(machine), views=[view])
    assert (view.upper, root, "rw") in own.keep


def test_a_root_that_can_only_be_read_needs_no_view(machine, root, store):
    plan = plan_of(NAMED["read_only"], [root], root, machine, views=[view_of(root, store)])
    assert plan == plan_of(NAMED["read_only"], [root], root, machine)


def test_roots_and_writable_places_within_a_root_are_seen_through_its_view(machine, root, store):
    inner, listed = f"{root}/inner", f"{root}/listed"
    for path in (inner, listed):
        os.mkdir(path)
    sandbox = replace(NAMED["workspace"], name="more", write=(listed,))
    plan = plan_of(sandbox, [root, inner], inner, machine, views=[view_of(root, store)])
    assert [target for target, _, _ in plan.overlay] == [root]
    assert not any(is_beneath(source, root) for source, _, _ in plan.keep)
    assert not any(is_beneath(path, root) for path in plan.read_only)


def test_views_that_overlap_are_refused(machine, root, store):
    os.mkdir(f"{root}/inner")
    views = [view_of(root, store), view_of(f"{root}/inner", store)]
    for order in (views, views[::-1], [views[0], view_of(root, store)]):
        with pytest.raises(SandboxError, match="lies in another"):
            plan_of(NAMED["workspace"], [root, f"{root}/inner"], root, machine, views=order)


def test_a_root_without_a_view_beside_one_that_has_one_is_refused(machine, root, home, store):
    with pytest.raises(SandboxError, match="no view"):
        plan_of(NAMED["workspace"], [root, str(home / "work")], root, machine, views=[view_of(root, store)])


def test_a_sandbox_that_lets_a_root_be_changed_by_another_way_is_refused(machine, root, store):
    around = replace(NAMED["workspace"], name="around", write=(str(Path(root).parent),))
    for sandbox in (around, NAMED["open"]):
        with pytest.raises(SandboxError, match="lets a command change") as refused:
            plan_of(sandbox, [root], root, machine, views=[view_of(root, store)])
        assert "workspace" in (refused.value.hint or "")


SAME_STORAGE = """
import json, subprocess, sys
from custody.sandbox.walls.mounts import same_storage
root, inner, outer, there = sys.argv[1:]
subprocess.run(["mount", "--bind", inner, there], check=True)
beneath = same_storage(root, [there])
subprocess.run(["mount", "--bind", outer, there], check=True)
above = same_storage(root, [there])
print(json.dumps([beneath, above, same_storage(root, [there + " not"]), same_storage(there, [root])]))
"""


def test_a_root_is_found_again_where_it_is_mounted_a_second_time(tmp_path):
    folder = tmp_path.resolve() / "a name\twith blanks"
    root, inner, there = folder / "root", folder / "root" / "inner", folder / "some where"
    for path in (inner, there, folder / "some where not"):
        path.mkdir(parents=True)
    paths = [str(path) for path in (root, inner, folder, there)]
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare(1) cannot make a mount namespace here")
    found = subprocess.run(
        [*alone, sys.executable, "-c", SAME_STORAGE, *paths], check=True, capture_output=True, timeout=30
    )
    assert json.loads(found.stdout) == [str(there), str(there), None, str(root)]


def test_what_is_held_may_not_lie_where_the_command_writes(machine, root, tmp_path):
    elsewhere = tmp_path.resolve() / "elsewhere"
    sandbox = replace(NAMED["workspace"], name="other", write=(str(elsewhere),))
    for place in (Path(root), elsewhere):
        with pytest.raises(SandboxError, match="holds back"):
            plan_of(sandbox, [root], root, machine, views=[view_of(root, place / "held")])


def test_what_is_held_is_covered_where_it_would_be_seen(machine, root, tmp_path):
    around = tmp_path.resolve() / "around"
    view = view_of(root, around / "held")
    sandbox = replace(NAMED["workspace"], name="nosy", read=(str(around),))
    plan = plan_of(sandbox, [root], root, machine, views=[view])
    assert str(Path(view.upper).parent) in {place for place, _ in plan.cover}


def test_temporary_folders_and_roots_that_are_gone_need_no_view(machine, root, store):
    views = [view_of(root, store), view_of("/tmp", store), view_of("/nonexistent", store)]
    plan = plan_of(NAMED["workspace"], ["/tmp", root, "/nonexistent"], root, machine, views=views)
    assert [target for target, _, _ in plan.overlay] == [root]


@pytest.mark.parametrize("name", NAMED)
def test_the_launcher_understands_every_plan(name, machine, root):
    plan = plan_of(NAMED[name], [root], root, machine)
    read = confine.Plan(plan.pack())
    assert (read.listener, read.overlay) == (plan.listener, list(plan.overlay))
    assert (read.filter, read.uid, read.keep) == (plan.seccomp, plan.uid, list(plan.keep))
    assert [tuple(rule) for rule in read.rules] == list(plan.landlock.rules)
