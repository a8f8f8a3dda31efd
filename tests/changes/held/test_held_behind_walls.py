"""A real command behind real walls: what it does is held, committed and taken back."""

import marshal
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace
from tests.changes.held.conftest import CALL, COMMIT, Case
from tests.changes.trees import A_TIME_NS, seen
from tests.sandbox.test_confine import walled

from custody.changes import undo_call
from custody.sandbox.walls.machine import look_at_machine
from custody.sandbox.walls.model import NAMED
from custody.sandbox.walls.plan import plan_of

SCRIPT = (
    "rm -r src; echo x > new; mv a b; chmod +x c; ln twin twin2; mkdir src; mkdir -p m/n; chmod 700 m; rm l"
)
STRANGER = 70_005
SANDBOX = replace(NAMED["workspace"], network="loopback", hosts=())


@pytest.fixture
def case() -> Iterator[Case]:
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Case(Path(os.path.realpath(folder)))


@pytest.mark.parametrize("owner", ["ours", "a stranger's"])
def test_a_checkout_stays_untouched_until_the_commit_and_is_what_it_was_after_the_undo(
    case: Case, owner: str
):
    machine = look_at_machine("/tmp")
    if machine.missing or not machine.overlay:
        pytest.skip("no overlay can be had behind walls here")
    if owner != "ours" and os.geteuid() != 0:
        pytest.skip("only root makes folders that belong to somebody else")
    for name in ("src/x/y", "a", "c", "twin"):
        case.make(name, name.encode())
    (case.root / "l").symlink_to("a")
    subprocess.run(["git", "init", "-q", case.root], check=True, timeout=60)
    for path in (case.root, *case.root.rglob("*")):
        if owner != "ours":
            os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
        os.utime(path, ns=(A_TIME_NS, A_TIME_NS), follow_symlinks=False)
    before = seen(case.root)
    holding = case.store.begin(CALL, [str(case.root)])
    plan = plan_of(SANDBOX, (str(case.root),), str(case.root), machine, views=holding.views, number=7)
    with walled(marshal.loads(plan.pack())) as launcher:
        assert launcher.run(SCRIPT, cwd=str(case.root)) == []
    held = holding.settle()
    assert seen(case.root) == before
    assert case.told(held) == {
        "src/x": "deleted",
        "src/x/y": "deleted",
        "new": "created",
        "b": "renamed",
        "c": "mode",
        "twin2": "created",
        "m": "created",
        "m/n": "created",
        "l": "deleted",
    }
    assert held.warnings == ()
    case.commit()
    after = seen(case.root)
    assert {one[1:3] for one in after.values()} == {before["."][1:3]}  # all belongs to the root's owner
    assert os.path.samefile(case.root / "twin", case.root / "twin2")
    assert sorted(os.listdir(case.root)) == [".git", "b", "c", "m", "new", "src", "twin", "twin2"]
    undo_call(case.undo, COMMIT, bytes(8))
    assert seen(case.root) == before
