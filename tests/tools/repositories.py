"""Real git repositories for the tests of the `git` tool, and everything git says of one."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tools.trees import tree

SETTINGS = "[user]\n\tname = Ada\n\temail = ada@example.com\n[init]\n\tdefaultBranch = main\n"


def make_home(folder: Path) -> dict[str, str]:
    """A home without anybody's settings but ours; the environment that says so."""
    folder.mkdir()
    (folder / ".gitconfig").write_text(SETTINGS)
    return {"HOME": os.fspath(folder), "GIT_CONFIG_NOSYSTEM": "1"}


def git(folder: Path, *arguments: str, check: bool = True, **environment: str) -> str:
    """Run git as a person would, but so that asking changes nothing; what it says on its standard output."""
    done = subprocess.run(
        ["git", "-c", "diff.autoRefreshIndex=false", *arguments],
        cwd=folder,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **environment},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0 or not check, done.stderr.decode()
    return os.fsdecode(done.stdout)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def commit(folder: Path, message: str, files: Mapping[str, str] | None = None) -> str:
    """Commit everything, with these files written before; the commit's id."""
    write(folder, files or {})
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


def new_repository(folder: Path) -> Path:
    """One with a few files, a folder, a link and a program, committed once."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--template=")
    write(
        folder,
        {"a.txt": "one\ntwo\nthree\n", "dir/b.txt": "b\n", "dir/deep/c.txt": "c\n", "run.sh": "#!/bin/sh\n"},
    )
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a.txt")
    commit(folder, "first")
    return folder


def everything(folder: Path, *, times: bool = True) -> dict[str, Any]:
    """What git says of a repository, every file of its working tree, and of its git folder but objects."""
    found: dict[str, Any] = {
        "status": git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "-z"),
        "files": {},
        "git": {},
    }
    for name, entry in tree(folder).items():
        ours = name.partition(b"/")[0] == b".git"
        if ours or not times:
            del entry["mtime_ns"]  # git's own folders see locks come and go
        if not name.startswith(b".git/objects/"):
            found["git" if ours else "files"][name] = entry
    return found
