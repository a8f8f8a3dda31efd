"""A skill in an archive: zip, or tar plain or compressed, from this machine or fetched.

Owns reading an archive that may be hostile: its declared and its real sizes, its kinds of members, and every
way in which its bytes can be wrong. What may stand where is `staging`'s to judge. Used by `acts` and `https`.

Nothing of an archive is believed: a size it declares can only refuse it, real bytes are counted as they come,
and links, devices, sparse and encrypted members are refused and not skipped, as a skill without them would be
another one.
"""

import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from tarfile import HeaderError
from typing import IO, Any, Protocol, Self, cast

import msgspec

from custody.errors import CustodyError, InvalidSkill, ToolError
from custody.files import Reach
from custody.files.spelling import shown
from custody.skills.skill import Source
from custody.skills.sources.folder import opened_chunks, real_path
from custody.skills.sources.inside import skill_folder
from custody.skills.sources.wanted import ARCHIVE_SUFFIXES, Wanted
from custody.skills.staging import CHUNK_BYTES, Fetched, Intake, Staging, room_error
from custody.skills.tree import TreeBounds

RATIO_MAX = 200
"""Unpacked bytes for each packed one: text packs to a twentieth, machine-made text to a hundredth. A bomb has
a thousand, the most that deflate can do, or more."""

RATIO_FREE_BYTES = 8 * 1024 * 1024
"""Below this the ratio is not asked: it fills no disk."""

TAR_OVERHEAD_BYTES = 16 * 1024 * 1024
"""Of headers and padding in the tar stream, beside the files: 1.5 KiB an entry, and room for long names."""

XZ_MEMORY_BYTES = 128 * 1024 * 1024
"""What an xz stream may demand for unpacking: `xz -9`, the strongest that is common, takes 65 MiB."""

TAR_ATTRIBUTES_BYTES_MAX = 64 * 1024
"""Of what tar says of one member beside its header: a path of some thousand characters, times, owners."""

ZIP_DIRECTORY_BYTES_MAX = 4 * 1024 * 1024
"""Of a zip's table of contents, of which each entry is an object in memory: some 40,000 entries."""

_ZIP_END = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP_END_BYTES = 22
_ZIP64_LOCATOR_BYTES = 20
_ZIP_COMMENT_BYTES_MAX = 65_535
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNIX = 3  # `create_system` of a zip whose entries have Unix modes

_ABOUT_ANOTHER = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip

_THE_END = "EOFHeaderError"
"""The one of the header errors that says that all is well; none of them is a public name but their base."""

_APPLE = "__MACOSX/"
"""What macOS adds to a zip beside the files: their resource forks, no part of anything."""


def fetch_archive(wanted: Wanted, reach: Reach, staging: Staging, bounds: TreeBounds) -> Fetched:
    """Unpack an archive of this machine. Raises InvalidSkill, PathRefused, PathInvalid, ToolError."""
    path = real_path(wanted, reach)
    copy = os.path.join(staging.path, "archive")
    sha256 = _copied(opened_chunks(reach, path), copy, bounds.bytes_max)
    if wanted.sha256 is not None and sha256 != wanted.sha256:
        raise ToolError(
            f"{shown(path)} is not the archive that was expected: its sha256 is {sha256}, `sha256` is "
            f"{wanted.sha256}. Nothing was installed."
        )
    source = Source(kind="archive", location=shown(path), path=wanted.path, sha256=sha256)
    return unpack(copy, os.path.basename(path), wanted, source, staging, bounds)


def _copied(chunks: Iterator[bytes], copy: str, bytes_max: int) -> str:
    """The sha256 of what was copied: what is unpacked is what was hashed."""
    digest = hashlib.sha256()
    size = 0
    try:
        with open(copy, "xb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > bytes_max:
                    raise InvalidSkill(f"The archive has more than {bytes_max:,} bytes.")
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise room_error(os.path.dirname(copy), error) from error
    return digest.hexdigest()


def unpack(
    path: str, name: str, wanted: Wanted, source: Source, staging: Staging, bounds: TreeBounds
) -> Fetched:
    """The skill in the archive at `path`, which lies in the staging folder. `name`: what it is called.

    Raises InvalidSkill, ToolError.
    """
    folder = staging.folder("unpacked")
    packed_bytes = os.path.getsize(path)
    allowed = min(bounds.bytes_max, max(RATIO_FREE_BYTES, RATIO_MAX * packed_bytes))
    intake = Intake(folder, msgspec.structs.replace(bounds, bytes_max=allowed), wrapped=True)
    take = _take_zip if name.lower().endswith(".zip") else _take_tar
    try:
        with open(path, "rb") as file:
            take(file, name.lower(), intake, bounds, allowed)
    except CustodyError:
        raise
    except Exception as error:  # the readers of both formats raise a dozen kinds over hostile bytes
        raise InvalidSkill(f"The archive cannot be read: {error or type(error).__name__}.") from error
    inside = skill_folder(intake.files, wanted.path)
    return Fetched(
        path=os.path.join(folder, inside) if inside else folder,
        kind="folder",
        natural_name=None if wanted.path is None else os.path.basename(inside) or None,
        other_name=os.path.basename(inside) or _stem(name),
        source=source,
    )


def _stem(name: str) -> str:
    lower = name.lower()
    suffix = max((end for end in ARCHIVE_SUFFIXES if lower.endswith(end)), key=len)
    return name[: -len(suffix)]


# -- zip ------------------------------------------------------------------------------------------------


def _take_zip(file: IO[bytes], name: str, intake: Intake, bounds: TreeBounds, allowed: int) -> None:
    _check_zip_directory(file)
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.filename.startswith(_APPLE)]
        if len(members) > bounds.files_max:
            raise InvalidSkill(f"There are more than {bounds.files_max} files and folders in it.")
        declared = sum(member.file_size for member in members)
        if declared > allowed:
            raise InvalidSkill(
                f"The archive declares {declared:,} bytes, from {os.fstat(file.fileno()).st_size:,} packed "
                f"ones; {allowed:,} are allowed."
            )
        for member in members:
            _take_zip_member(archive, member, intake)


def _check_zip_directory(file: IO[bytes]) -> None:
    """Refuse a table of contents that would fill the memory, where the reader will look for it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ZIP_END_BYTES - _ZIP_COMMENT_BYTES_MAX - _ZIP64_LOCATOR_BYTES))
    tail = file.read()
    if tail[-_ZIP_END_BYTES:].startswith(_ZIP_END) and tail.endswith(b"\0\0"):
        end = len(tail) - _ZIP_END_BYTES
    else:
        end = tail.rfind(_ZIP_END)
    if end < 0 or len(tail) - end < _ZIP_END_BYTES:
        raise InvalidSkill("The archive is no zip, or its end is missing.")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    locator = tail[max(0, end - _ZIP64_LOCATOR_BYTES) : end]
    if directory > ZIP_DIRECTORY_BYTES_MAX or locator.startswith(_ZIP64_LOCATOR):
        raise InvalidSkill("The archive's table of contents is larger than that of any skill.")
    file.seek(0)


def _take_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, intake: Intake) -> None:
    name = member.orig_filename  # `filename` ends at a NUL
    mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _other_kind(name, stat.S_ISLNK(mode))
    if name.endswith("/"):
        intake.add_folder(name.removesuffix("/"))
        return
    if member.flag_bits & _ENCRYPTED:
        raise InvalidSkill(f"{name!a} is encrypted.")
    if member.compress_type not in _METHODS:
        raise InvalidSkill(f"{name!a} is packed in another way than stored or deflated.")
    with archive.open(member) as content:
        intake.add_file(name, _chunks(content), executable=bool(mode & 0o111))


# -- tar ------------------------------------------------------------------------------------------------


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


def _take_tar(file: IO[bytes], name: str, intake: Intake, bounds: TreeBounds, allowed: int) -> None:
    stream = cast("Any", _Bounded(_opened(file, name), allowed + TAR_OVERHEAD_BYTES))
    count = 0
    with tarfile.TarFile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            count += 1
            if count > bounds.files_max:
                raise InvalidSkill(f"There are more than {bounds.files_max} files and folders in it.")
            _take_tar_member(archive, member, intake)
    if count == 0:
        raise InvalidSkill("There is nothing in the archive.")


class _Member(tarfile.TarInfo):
    """A member whose header is right. The library takes a wrong one for the end of the archive, and reads any
    number of attributes into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _ABOUT_ANOTHER and member.size > TAR_ATTRIBUTES_BYTES_MAX:
            raise InvalidSkill("The archive says more about one of its members than there can be to say.")
        return member

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == _THE_END:
                raise
            raise InvalidSkill(f"The archive is damaged or ends too early: {error}.") from error


def _opened(file: IO[bytes], name: str) -> _Readable:
    if name.endswith((".gz", ".tgz")):
        return gzip.GzipFile(fileobj=file)
    if name.endswith((".xz", ".txz")):
        return io.BufferedReader(_Xz(file))
    return file


def _take_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, intake: Intake) -> None:
    name = member.name
    while name.startswith("./"):
        name = name.removeprefix("./").lstrip("/")
    if member.isdir():
        if name not in ("", "."):
            intake.add_folder(name)
        return
    if not member.isreg() or member.issparse():
        raise _other_kind(name, member.issym() or member.islnk())
    content = archive.extractfile(member)
    assert content is not None, "a regular member has content"
    intake.add_file(name, _chunks(content), executable=bool(member.mode & 0o111))


class _Bounded:
    """What a reader of tar gets: no more than so many bytes, whatever it asks for."""

    def __init__(self, stream: _Readable, bytes_max: int) -> None:
        self._stream = stream
        self._left = bytes_max

    def read(self, count: int, /) -> bytes:
        data = self._stream.read(min(count, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise InvalidSkill("The archive unpacks to far more than a skill may have; it is refused.")
        return data


class _Xz(io.RawIOBase):
    """An xz stream that may not demand more memory than XZ_MEMORY_BYTES; the library's own reader may."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacking = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacking.eof:
            packed = self._file.read(CHUNK_BYTES) if self._unpacking.needs_input else b""
            if not packed and self._unpacking.needs_input:
                raise EOFError("the compressed data ends too early")
            data = self._unpacking.decompress(packed, max_length=len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:  # which a damaged gzip raises; nothing of the disk is waited for here
        raise InvalidSkill(f"The archive cannot be read: {error}.") from error


def _other_kind(name: str, is_link: bool) -> InvalidSkill:
    what = "a link" if is_link else "neither a file nor a folder"
    return InvalidSkill(f"{name!a} is {what}; an archive of a skill holds files and folders only.")
