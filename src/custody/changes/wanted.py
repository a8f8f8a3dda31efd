"""What shall stand at a path, and the short ways to say so.

Owns `Wanted`, the one thing `carry_out` takes. Knows nothing of how it comes about. Used by the tools that
change files and by `undo`.
"""

import os
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from custody.changes.folders import Folders, folder_of, within
from custody.files.reach import Target
from custody.files.state import ABSENT, CHUNK_BYTES, State
from custody.files.walking import walk

NEW_FILE_MODE = 0o666
NEW_FOLDER_MODE = 0o777
"""As open(2) and mkdir(2) are usually called: the process's umask takes away what it takes away."""

Content = Callable[[], Iterator[bytes]]
"""Gives a file's content from its beginning, in chunks of at most CHUNK_BYTES, each time it is called."""


class Wanted(Struct, frozen=True, kw_only=True):
    """One path, and what shall stand there. One change names each path once; their order does not matter."""

    target: Target
    state: State
    """`ABSENT`: nothing. A file without `content` keeps what it has and gets the mode."""
    content: Content | None = None
    exact: bool = False
    """True: mode, owner, extended attributes and times become those of `state`, as taking back wants it.
    False: a file written over a file keeps that one's mode, owner and extended attributes; what is new gets
    `state.mode` less the umask; times are those of the act."""
    keep_bytes: int | None = None
    """The first so many bytes of the file that stands there stay as they are, in place: the same inode, so
    other names and open descriptors see it. `content` is what follows them. None: another file comes."""
    twin: Target | None = None
    """Another name of the same file (a hard link), wanted by the same change or there already. It is linked
    to; where that cannot be done `content` is written."""


def file_at(target: Target, content: bytes | Content, *, mode: int = NEW_FILE_MODE) -> Wanted:
    """A file with this content. Over an existing file `mode` does not count: that one's is kept."""
    return Wanted(target=target, state=State("file", mode), content=_content(content))


def appended_at(target: Target, state: State, content: bytes | Content) -> Wanted:
    """The file that is there (`state`), with more at its end."""
    assert state.kind == "file", "only a file has an end"
    return Wanted(target=target, state=state, content=_content(content), keep_bytes=state.size)


def folder_at(target: Target, *, mode: int = NEW_FOLDER_MODE) -> Wanted:
    """A new folder."""
    return Wanted(target=target, state=State("directory", mode))


def link_at(target: Target, to: str) -> Wanted:
    """A symbolic link that says `to`."""
    return Wanted(target=target, state=State("link", target=to))


def nothing_at(target: Target) -> Wanted:
    """Nothing: what is there is deleted. A folder must be empty by then (see `tree_removed`)."""
    return Wanted(target=target, state=ABSENT)


def mode_at(target: Target, state: State, mode: int) -> Wanted:
    """The file or folder that is there (`state`), with other permission bits."""
    return Wanted(target=target, state=msgspec.structs.replace(state, mode=mode))


def missing_folders(target: Target, *, mode: int = NEW_FOLDER_MODE) -> list[Wanted]:
    """The folders above `target`, beneath its root, that are not there yet; from the top. Raises OSError."""
    missing: list[Wanted] = []
    folder = folder_of(target)
    with Folders() as folders:
        while folder.relative:
            try:
                folders.at(folder)
                break
            except FileNotFoundError:
                missing.append(folder_at(folder, mode=mode))
                folder = folder_of(folder)
    return missing[::-1]


def tree_removed(target: Target, *, entries_max: int, depth_max: int) -> list[Wanted]:
    """Nothing, for a folder and for all that is beneath it. Raises TooMany of `files.walking`, OSError."""
    with Folders() as folders:
        entries = walk(folders.at(target), entries_max=entries_max, depth_max=depth_max)
        beneath = [nothing_at(within(target, entry.relative)) for entry in entries]
    return [*beneath, nothing_at(target)]


def _content(content: bytes | Content) -> Content:
    if not isinstance(content, bytes):
        return content
    return lambda: (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))


def file_content(fd: int) -> Content:
    """What a descriptor that stays open reads, from its beginning."""

    def read() -> Iterator[bytes]:
        at = 0
        while chunk := os.pread(fd, CHUNK_BYTES, at):
            at += len(chunk)
            yield chunk

    return read
