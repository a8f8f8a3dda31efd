"""What a skill is, where skills are looked for, and what can be wrong with one.

Owns the words for it. Knows nothing of locks beyond the source they name, and nothing of how a catalog is
put together. Used by everything that deals in skills.
"""

from typing import Any, Literal

from msgspec import Struct

from custody.skills.tree import TreeBounds

RootKind = Literal["given", "project", "user"]
SkillKind = Literal["folder", "file"]
SourceKind = Literal["local", "archive", "git", "https"]
ProblemKind = Literal[
    "conflict",
    "look_alike",
    "unreadable",
    "front_matter",
    "changed",
    "missing",
    "extra",
    "name_differs",
    "lock",
    "unsigned",
    "not_a_skill",
]


class Root(Struct, frozen=True, kw_only=True):
    """A folder that holds skills, one level deep."""

    path: str
    """Absolute. It need not exist, and it may be a link."""
    kind: RootKind


class Shelf(Struct, frozen=True, kw_only=True):
    """Where skills are, and what is demanded of them."""

    roots: tuple[Root, ...]
    """The first that has a name has it for good."""
    install_root: str
    """Where a skill is installed unless another of the roots is named."""
    trust_file: str
    """Absolute, and outside every root: what is judged does not say who may be believed."""
    require_signed: bool = False
    """Whether only what a trusted key has signed is offered."""
    bounds: TreeBounds = TreeBounds()


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a skill was installed from."""

    kind: SourceKind
    location: str
    """A path or a URL, without credentials and secrets."""
    commit: str | None = None
    """Of a git repository: the 40 or 64 hexadecimal digits."""
    path: str | None = None
    """The folder inside an archive or a repository."""
    sha256: str | None = None
    """Of the archive or the download, in hexadecimal."""


class Skill(Struct, frozen=True, kw_only=True):
    """One skill, as it was when it was read."""

    name: str
    """Its folder's name, or its file's without `.md`."""
    description: str
    kind: SkillKind
    root: str
    path: str
    """Below the root: `pdf`, or `notes.md`. The key of its entry in the lock."""
    file: str
    """Absolute path of the SKILL.md, or of the single file."""
    digest: str
    """Over the tree: `sha256:` and 64 hexadecimal digits."""
    files: tuple[str, ...]
    """Paths in the tree; of a single file always `SKILL.md`."""
    metadata: dict[str, Any]
    """The whole front matter, keys that are not known included."""
    locked: bool
    """Whether the root's lock says the same of every file."""
    source: Source | None = None
    signed_by: str | None = None
    """The id of the trusted key whose signature over the digest is valid."""


class Problem(Struct, frozen=True, kw_only=True):
    """Something a person should know of a root or of what lies in it."""

    kind: ProblemKind
    root: str
    path: str | None
    """Below the root; null where the problem is the root's own."""
    name: str | None
    message: str
    """A sentence, with what to do where there is something to do."""
    offered: bool
    """Whether the skill is offered all the same."""
