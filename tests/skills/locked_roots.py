"""Roots of skills with locks and keys, as the tests of locks, signatures and verifying need them."""

import os
from pathlib import Path

from custody.journal.checkpoint import Signer
from custody.skills.lock import LOCK_FILE, Lock, LockEntry, SignatureData, lock_bytes, read_lock
from custody.skills.skill import Root, Shelf, Source
from custody.skills.tree import TreeBounds, read_tree

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND

ALICE = Signer("alice.example/skills", b"\x01" * 32)
BOB = Signer("bob.example/skills", b"\x02" * 32)


def skill_text(name: str, body: str = "Do it well.") -> str:
    return f"---\nname: {name}\ndescription: What {name} is for.\n---\n{body}\n"


def folder_skill(root: Path, name: str, files: dict[str, str] | None = None) -> Path:
    """A folder with a SKILL.md and these files; scripts (`.sh`) are executable."""
    for path, text in {"SKILL.md": skill_text(name), **(files or {})}.items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if path.endswith(".sh") else 0o644)
    return root / name


def file_skill(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    file = root / f"{name}.md"
    file.write_text(skill_text(name))
    return file


def entry_of(root: Path, path: str, signature: SignatureData | None = None) -> LockEntry:
    tree = read_tree(str(root / path), TreeBounds())
    source = Source(kind="local", location="/somewhere")
    return LockEntry(
        name=path.removesuffix(".md"),
        digest=tree.digest,
        files=tree.files,
        source=source,
        signature=signature,
    )


def lock(root: Path, *paths: str) -> Lock:
    """Lock these skills as they are now, beside what is locked already."""
    made = read_lock(str(root)) or Lock()
    for path in paths:
        made = made.having(path, entry_of(root, path))
    (root / LOCK_FILE).write_bytes(lock_bytes(made))
    return made


def shelf_of(root: Path, *, require_signed: bool = False) -> Shelf:
    return Shelf(
        roots=(Root(path=str(root), kind="given"),),
        install_root=str(root),
        trust_file=os.path.join(os.path.dirname(root), "skills.trust.json"),
        require_signed=require_signed,
    )
