"""A skill in a git repository, at one commit.

Owns how a commit is fetched and how its files are read: as blobs of that commit, never from a working tree,
so that no hook, filter, attribute or submodule of the repository has a say, and nothing that changes there
meanwhile counts. git itself runs as a process of the call. Used by `acts`.
"""

import errno
import os
import signal
from collections.abc import Iterator

from msgspec import Struct

from custody.errors import InvalidSkill, ToolError
from custody.sandbox import Command, Finished
from custody.skills.skill import Source
from custody.skills.sources.inside import skill_folder
from custody.skills.sources.wanted import FILE_SUFFIX, GIT_SUFFIX, Wanted, without_userinfo
from custody.skills.staging import Fetched, Intake, Staging
from custody.skills.tree import SKILL_FILE, TreeBounds
from custody.tools import Context
from custody.tools.git.clone import PROTOCOLS
from custody.tools.git.command import SAID_BYTES, CutOff, argv, environment, failure, in_thread

REPOSITORY_BYTES_MAX = 512 * 1024 * 1024
"""Of the largest file that fetching writes: the pack of one commit of a large repository."""

LISTING_BYTES_MAX = 16 * 1024 * 1024
"""Of a commit's list of files: a hundred thousand. The repository may be larger than a skill."""

_ULIMIT_BYTES = 512
"""The unit of `ulimit -f`; some shells take 1,024, and the bound is twice as wide there."""

_BATCH_LINE_BYTES = 128
"""In front of each blob that `cat-file --batch` gives: name, kind and size."""

_OWN = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
"""Nobody's settings hold: `url.….insteadOf` would fetch from elsewhere than the record says."""

_LINK, _SUBMODULE, _FILE, _PROGRAM = "120000", "160000", "100644", "100755"


class _Entry(Struct, frozen=True):
    """One line of `git ls-tree`."""

    mode: str
    object_id: str
    size: int
    path: str


async def fetch_git(wanted: Wanted, context: Context, staging: Staging, bounds: TreeBounds) -> Fetched:
    """Fetch the commit and read the skill. Raises InvalidSkill, ToolError, SandboxError, CutOff."""
    git = _Git(context, await in_thread(lambda: staging.folder("repository")), wanted)
    await git.make(wanted.commit)
    if wanted.commit is None and wanted.ref is None:
        raise ToolError(
            f"Which commit of {wanted.said} is wanted is not said; nothing was installed. Its HEAD is "
            f"{await git.head()} now.",
            hint="Where that is the one, give it as `commit`.",
        )
    commit = await git.fetch()
    source = Source(kind="git", location=wanted.said, commit=commit, path=wanted.path)
    if wanted.path is not None and wanted.path.lower().endswith(FILE_SUFFIX):
        return await _file(git, commit, wanted, source, staging, bounds)
    entries = await git.list(commit)
    inside = skill_folder({entry.path for entry in entries}, wanted.path)
    prefix = f"{inside}/" if inside else ""
    chosen = [entry for entry in entries if entry.path.startswith(prefix)]
    _check(chosen, bounds)
    blobs = await git.read(chosen)
    folder = await in_thread(lambda: _written(chosen, prefix, blobs, staging, bounds))
    return Fetched(
        path=folder,
        kind="folder",
        natural_name=os.path.basename(inside) or None,
        other_name=os.path.basename(wanted.said.rstrip("/")).removesuffix(GIT_SUFFIX),
        source=source,
    )


async def _file(
    git: "_Git", commit: str, wanted: Wanted, source: Source, staging: Staging, bounds: TreeBounds
) -> Fetched:
    """A single file, with the signature beside it."""
    path = wanted.path
    beside = f"{path}.sig"
    chosen = [entry for entry in await git.list(commit) if entry.path in (path, beside)]
    if path not in [entry.path for entry in chosen]:
        raise InvalidSkill(f"There is no {path} in {wanted.said} at {commit}.")
    _check(chosen, bounds)
    named = {path: SKILL_FILE, beside: f"{SKILL_FILE}.sig"}
    chosen = [_Entry(entry.mode, entry.object_id, entry.size, named[entry.path]) for entry in chosen]
    blobs = await git.read(chosen)
    folder = await in_thread(lambda: _written(chosen, "", blobs, staging, bounds))
    name = os.path.basename(path or "")[: -len(FILE_SUFFIX)]
    return Fetched(path=os.path.join(folder, SKILL_FILE), kind="file", natural_name=name, source=source)


def _check(entries: list[_Entry], bounds: TreeBounds) -> None:
    """Before a byte of them is read. Raises InvalidSkill."""
    for entry in entries:
        if entry.mode not in (_FILE, _PROGRAM, "100664"):
            what = {_LINK: "a link", _SUBMODULE: "a submodule"}.get(entry.mode, "no file")
            raise InvalidSkill(f"{entry.path!a} is {what}; a skill holds files and folders only.")
    if len(entries) > bounds.files_max:
        raise InvalidSkill(f"There are more than {bounds.files_max} files in it.")
    if sum(entry.size for entry in entries) > bounds.bytes_max:
        raise InvalidSkill(f"Its files have more than {bounds.bytes_max:,} bytes together.")


def _written(entries: list[_Entry], prefix: str, blobs: bytes, staging: Staging, bounds: TreeBounds) -> str:
    folder = staging.folder("skill")
    intake = Intake(folder, bounds)
    for entry, content in zip(entries, _blobs(blobs), strict=True):
        path = entry.path.removeprefix(prefix)
        intake.add_file(path, (content,), executable=entry.mode == _PROGRAM)
    return folder


def _blobs(data: bytes) -> Iterator[bytes]:
    """The contents in what `cat-file --batch` says."""
    at = 0
    while at < len(data):
        line_end = data.index(b"\n", at)
        said = data[at:line_end].split(b" ")
        if len(said) != 3 or said[1] != b"blob":
            raise ToolError("The repository has something else where a file's content should be.")
        at = line_end + 1 + int(said[2])
        yield data[line_end + 1 : at]
        at += 1


class _Git:
    """Runs git in a new bare repository for one call."""

    def __init__(self, context: Context, folder: str, wanted: Wanted) -> None:
        self._context = context
        self._folder = folder
        self._wanted = wanted
        assert wanted.address is not None, "a repository is reached somehow"
        self._environment = _environment(context, PROTOCOLS[wanted.address])

    async def make(self, commit: str | None) -> None:
        form = "sha256" if commit is not None and len(commit) == 64 else "sha1"
        await self._say("init", "--quiet", "--bare", "--template=", f"--object-format={form}", self._folder)

    async def head(self) -> str:
        said = await self._say("ls-remote", "--exit-code", "--", self._wanted.location, "HEAD")
        return said.stdout.data.decode("utf-8", "replace").partition("\t")[0]

    async def fetch(self) -> str:
        """The commit, which is in the repository now."""
        wanted = self._wanted
        what = wanted.commit or wanted.ref
        assert what is not None, "asked before"
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
        try:
            await self._here(*fetch, "--depth=1", "--", wanted.location, what)
        except ToolError:
            if wanted.commit is None:
                raise
            # Some servers give no commit by its name, only what a branch or a tag leads to.
            everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            await self._here(*fetch, "--", wanted.location, *everything)
        name = "FETCH_HEAD" if wanted.commit is None else wanted.commit
        found = await self._here("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        commit = found.stdout.data.decode("ascii", "replace").strip()
        if wanted.commit is not None and commit != wanted.commit:
            raise ToolError(f"{wanted.commit} is no commit of {wanted.said}, but of {commit} another name.")
        return commit

    async def list(self, commit: str) -> list[_Entry]:
        """Every file of the commit."""
        said = await self._here(
            "ls-tree", "-r", "-z", "--long", "--full-tree", commit, head_bytes=LISTING_BYTES_MAX
        )
        if said.stdout.dropped_bytes:
            raise InvalidSkill(f"{self._wanted.said} has more files than are looked through.")
        return [_entry(line) for line in said.stdout.data.split(b"\0") if line]

    async def read(self, entries: "list[_Entry]") -> bytes:
        """What `cat-file --batch` says of them."""
        room = sum(entry.size + _BATCH_LINE_BYTES for entry in entries)
        names = "".join(f"{entry.object_id}\n" for entry in entries)
        said = await self._here("cat-file", "--batch", "--buffer", stdin=names.encode(), head_bytes=room)
        if said.stdout.dropped_bytes:
            raise ToolError("The repository gives more than it listed.")
        return said.stdout.data

    async def _here(
        self, *arguments: str, stdin: bytes | None = None, head_bytes: int = SAID_BYTES
    ) -> Finished:
        return await self._say(f"--git-dir={self._folder}", *arguments, stdin=stdin, head_bytes=head_bytes)

    async def _say(
        self, *arguments: str, stdin: bytes | None = None, head_bytes: int = SAID_BYTES
    ) -> Finished:
        """Run git to its end. Raises CutOff where the call is over before, GitFailed, SandboxError."""
        blocks = str(REPOSITORY_BYTES_MAX // _ULIMIT_BYTES)
        command = Command(
            # A server may send without end; a file of git's that grows beyond this ends git.
            argv=("/bin/sh", "-c", 'ulimit -f "$0" && exec "$@"', blocks, *argv(arguments)),
            cwd=self._folder,
            environment=self._environment,
            stdin=stdin,
            deadline_seconds=self._context.remaining_seconds(),
            keep_head_bytes=head_bytes,
            keep_tail_bytes=0 if head_bytes != SAID_BYTES else SAID_BYTES,
        )
        finished = await self._context.run_process(command)
        if finished.is_cut:
            raise CutOff(finished)
        if finished.exit_code != 0:
            raise self._failed(finished)
        return finished

    def _failed(self, finished: Finished) -> ToolError:
        """git's words, in which the address stands as it was given."""
        failed = failure(finished)
        words = failed.message
        for address in (self._wanted.location, without_userinfo(self._wanted.location)):
            words = words.replace(address, self._wanted.said)  # git leaves a password out, a query in
        if f"signal {signal.SIGXFSZ.value}" in words or os.strerror(errno.EFBIG) in words:
            return ToolError(
                f"{self._wanted.said} was not fetched: what it sends for one commit has more than "
                f"{REPOSITORY_BYTES_MAX:,} bytes.",
                hint="Install the skill from a folder or an archive.",
            )
        return ToolError(f"{self._wanted.said} could not be fetched: {words}", hint=failed.hint)


def _environment(context: Context, protocols: tuple[str, ...]) -> dict[str, str]:
    return {**environment(context.environment({}), protocols), **_OWN}


def _entry(line: bytes) -> _Entry:
    about, _, path = line.partition(b"\t")
    mode, _, object_id, size = about.split()
    return _Entry(mode.decode(), object_id.decode(), int(size) if size != b"-" else 0, os.fsdecode(path))
