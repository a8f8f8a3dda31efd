"""One skill as it stands on the disk: its files, their digest, and the text that the digest is about.

Owns reading all of that in one go, so that nobody is shown a text under the digest of another. Knows nothing
of names, locks, or whether the skill may be used. Used by the catalog, by what installs, and by whoever gives
out the text.
"""

from msgspec import Struct

from custody.errors import InvalidSkill
from custody.skills.front_matter import FrontMatter, decode, read_front_matter
from custody.skills.tree import SIGNATURE_FILE, SKILL_FILE, Tree, TreeBounds, read_tree_keeping

_KEPT = frozenset([SKILL_FILE, SIGNATURE_FILE])


class Content(Struct, frozen=True, kw_only=True):
    """What was read of one skill, at one moment."""

    tree: Tree
    skill_bytes: bytes | None
    """The bytes of SKILL.md, or of the single file; None where a folder has none."""
    signature: bytes | None
    """The bytes of the signature; none at all (`b""`) where there is one that cannot be read."""

    @property
    def text(self) -> str:
        """Front matter included. Raises InvalidSkill."""
        if self.skill_bytes is None:
            raise InvalidSkill(f"There is no {SKILL_FILE} in it, so it is not a skill.", kind="not_a_skill")
        return decode(self.skill_bytes).removeprefix("\ufeff")

    def front_matter(self) -> FrontMatter:
        """Raises InvalidSkill."""
        return read_front_matter(self.text)


def read_content(path: str, bounds: TreeBounds, *, folder_fd: int | None = None) -> Content:
    """What stands at `path` (below `folder_fd`): a folder, or a single `.md` file.

    Raises InvalidSkill as `read_tree` does. Whether it is a skill is not asked.
    """
    tree, kept = read_tree_keeping(path, bounds, _KEPT, folder_fd=folder_fd)
    return Content(tree=tree, skill_bytes=kept.get(SKILL_FILE), signature=kept.get(SIGNATURE_FILE))
