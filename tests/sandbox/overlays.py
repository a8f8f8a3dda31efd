"""A root of a test, where its changes go, and who works in it behind an overlay."""

import marshal
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.sandbox.test_confine import ORDINARY, PYTHON, walled

from custody.sandbox.walls.machine import Machine, look_at_machine
from custody.sandbox.walls.model import NAMED, Sandbox, View
from custody.sandbox.walls.plan import plan_of

OWNER = 70_005  # of a root that is not of who starts the launcher
STRANGER = 4_242  # of a file in somebody else's root
WORKSPACE = replace(NAMED["workspace"], network="loopback", hosts=())  # so nobody is handed a listener

needs_python = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"commands need {PYTHON}")


@cache
def this_machine() -> Machine:
    return look_at_machine("/tmp")


@dataclass
class Held:
    """A root, where its changes go, and who works in it."""

    folder: Path
    owner: int
    program: Path | None
    """Of an ordinary user's launcher; None: ours."""

    def __post_init__(self) -> None:
        for path in (self.root, self.upper, self.work):
            path.mkdir(parents=True)
        self.fill("changed", "removed", "renamed", "mode", "times", "attribute", "cut", "mapped", "twin")
        self.fill("folder/inner", "replaced/inner", "moved/inner", "deep/deeper/inner")
        os.link(self.root / "twin", self.root / "twin2")
        (self.root / "link").symlink_to("changed")
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.owner, self.owner, follow_symlinks=False)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def upper(self) -> Path:
        return self.folder / "held" / "upper"

    @property
    def work(self) -> Path:
        return self.folder / "held" / "work"

    def fill(self, *names: str) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(f"{name} as it was\n")

    def view(self, **changes: Any) -> View:
        view = View(root=str(self.root), kind="overlay", upper=str(self.upper), work=str(self.work))
        return replace(view, **changes)

    def plan(self, *views: View, roots: tuple[str, ...] = (), sandbox: Sandbox = WORKSPACE) -> dict[str, Any]:
        machine = this_machine()
        if self.program is not None:
            machine = replace(machine, uid=ORDINARY, namespaces="user", uids=None, idmapped=False)
            machine = replace(machine, homes=(), prefixes=())  # those are ours, and closed to him
        roots = roots or (str(self.root),)
        plan = plan_of(sandbox, roots, str(self.root), machine, views=views or (self.view(),), number=7)
        return marshal.loads(plan.pack())

    def walled(self, *views: View, **options: Any) -> Any:
        return walled(self.plan(*views, **options), self.program)

    def run(self, script: str, *views: View, **options: Any) -> list[str]:
        with self.walled(*views, **options) as launcher:
            return launcher.run(script, cwd=str(self.root))

    def python(self, text: str, **options: Any) -> list[str]:
        return self.run(f"{PYTHON} -I -S - <<'END'\n{text}\nEND", **options)

    def state(self) -> dict[str, tuple[Any, ...]]:
        """Everything of the root that a change would change; that time cannot be set back."""
        found: dict[str, tuple[Any, ...]] = {}
        for path in (self.root, *self.root.rglob("*")):
            at = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(at.st_mode) else b""
            names = tuple(os.listxattr(path, follow_symlinks=False))
            found[str(path)] = (*at[:7], at.st_mtime_ns, at.st_ctime_ns, content, names)
        return found


def unlock(folder: Path) -> None:
    """What the kernel made for itself is closed to its owner as well."""
    for path in folder.rglob("work"):
        path.chmod(0o700)
