"""Archives from strangers: what a skill may look like in one, and all that is refused with a sentence."""

import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.skills.installing import make_skill, skill_text

from custody.errors import CustodyError, InvalidSkill, ToolError
from custody.files import Reach, load_protected
from custody.skills.sources.archive import RATIO_FREE_BYTES, fetch_archive
from custody.skills.sources.wanted import wanted
from custody.skills.staging import Staging
from custody.skills.tree import TreeBounds, read_tree

SMALL = TreeBounds(files_max=50, bytes_max=1024 * 1024, depth_max=8)
TEXT = skill_text("pdf").encode()


def fetched(
    archive: Path, bounds: TreeBounds = SMALL, **asked: str
) -> tuple[str | None, dict[str, bytes], str]:
    """What the archive gives: the name it has, its files, and their digest."""
    reach = Reach(os.fspath(archive.parent), (os.path.realpath(archive.parent),), load_protected(own=()))
    with closing(Staging()) as staging:
        came = fetch_archive(wanted({"source": os.fspath(archive), **asked}), reach, staging, bounds)
        top = Path(came.path)
        files = {
            each.relative_to(top).as_posix(): each.read_bytes() for each in top.rglob("*") if each.is_file()
        }
        for each in top.rglob("*"):
            assert stat.S_IMODE(each.lstat().st_mode) in (0o600, 0o700)
        return came.natural_name or came.other_name, files, read_tree(came.path, bounds).digest


def refused(archive: Path, bounds: TreeBounds = SMALL, **asked: str) -> str:
    with pytest.raises(CustodyError) as error:
        fetched(archive, bounds, **asked)
    assert isinstance(error.value, InvalidSkill | ToolError)
    return str(error.value)


def zipped(path: Path, *members: tuple[str, bytes], **more: object) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tarred(path: Path, *members: Member, mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


# -- what is taken ----------------------------------------------------------------------------------------


def pack_zip(folder: Path, to: Path) -> None:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))


def pack_tar(mode: str) -> Callable[[Path, Path], None]:
    def pack(folder: Path, to: Path) -> None:
        with tarfile.open(to, mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
            archive.add(folder, folder.name)

    return pack


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("pdf.zip", pack_zip),
        ("pdf.tar", pack_tar("w")),
        ("pdf.tar.gz", pack_tar("w:gz")),
        ("pdf.TGZ", pack_tar("w:gz")),
        ("pdf.tar.xz", pack_tar("w:xz")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_archive_gives_the_same_skill(
    tmp_path: Path, name: str, pack: Callable[[Path, Path], None]
):
    skill = make_skill(tmp_path, "pdf", **{"données/é.txt": "ü"})
    pack(skill, tmp_path / name)
    named, files, digest = fetched(tmp_path / name)
    assert named == "pdf"
    assert files["données/é.txt"] == "ü".encode()
    assert digest == read_tree(os.fspath(skill), SMALL).digest


def test_a_skill_at_the_top_has_the_name_of_its_archive(tmp_path: Path):
    assert fetched(zipped(tmp_path / "my-pdf.zip", ("SKILL.md", TEXT)))[0] == "my-pdf"
    assert fetched(tarred(tmp_path / "my-pdf.tar.gz", member("./SKILL.md", TEXT)))[0] == "my-pdf"


def test_a_folder_inside_is_named_with_or_without_the_one_around_it(tmp_path: Path):
    archive = zipped(
        tmp_path / "many.zip",
        ("skills-main/README.md", b"r"),
        ("skills-main/skills/pdf/SKILL.md", TEXT),
        ("skills-main/skills/word/SKILL.md", TEXT),
    )
    for path in ("skills/pdf", "./skills/pdf/", "skills-main/skills/pdf"):
        assert fetched(archive, path=path)[:2] == ("pdf", {"SKILL.md": TEXT})
    assert "skills-main/skills/pdf, skills-main/skills/word" in refused(archive)
    assert "in its folder skills/excel" in refused(archive, path="skills/excel")


def test_an_archive_without_a_skill_is_refused(tmp_path: Path):
    assert "no SKILL.md in it" in refused(zipped(tmp_path / "a.zip", ("README.md", b"r")))
    assert "nothing in the archive" in refused(tarred(tmp_path / "a.tar", mode="w"))


def test_set_user_id_and_other_bits_are_dropped(tmp_path: Path):
    archive = tarred(
        tmp_path / "a.tgz", member("SKILL.md", TEXT, mode=0o644), member("run", b"x", mode=0o6777)
    )
    assert set(fetched(archive)[1]) == {"SKILL.md", "run"}


def test_an_archive_is_the_one_that_was_expected_or_refused(tmp_path: Path):
    import hashlib

    archive = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert fetched(archive, sha256=f"sha256:{sha256.upper()}")[0] == "a"
    assert f"its sha256 is {sha256}" in refused(archive, sha256="0" * 64)


# -- names ------------------------------------------------------------------------------------------------

OUTSIDE = [
    "../x",
    "/etc/x",
    "a/../../x",
    "a//x",
    "..",
    "a/./x",
    "a\\..\\x",
    "a\nx",
    "x" * 300,
    "d/" * 30 + "x",
]
IDS = ["up", "absolute", "up from within", "empty", "dots", "dot", "backslash", "newline", "long", "deep"]


@pytest.mark.parametrize("name", OUTSIDE, ids=IDS)
def test_names_that_lead_out_or_mean_something_else_are_refused_in_a_zip(tmp_path: Path, name: str):
    refused(zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), (name, b"x")))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", OUTSIDE, ids=IDS)
def test_names_that_lead_out_or_mean_something_else_are_refused_in_a_tar(tmp_path: Path, name: str):
    refused(tarred(tmp_path / "a.tar.gz", member("SKILL.md", TEXT), member(name, b"x")))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_nul_in_a_name_is_refused(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), ("run_sh", b"x"))
    archive.write_bytes(archive.read_bytes().replace(b"run_sh", b"run\0sh"))
    assert "control character" in refused(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("a.txt", "a.txt", "twice"),
        ("a.txt", "A.TXT", "one path where upper and lower case"),
        ("Docs/a", "docs/b", "one path where upper and lower case"),
        ("docs", "docs/a", "twice"),
    ],
)
def test_names_that_stand_for_one_file_are_refused(tmp_path: Path, first: str, second: str, said: str):
    members = [("SKILL.md", TEXT), (first, b"1"), (second, b"2")]
    assert said in refused(zipped(tmp_path / "a.zip", *members))
    assert said in refused(tarred(tmp_path / "a.tar", *(member(*each) for each in members), mode="w"))


# -- kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE],
    ids=["link", "hard link", "character device", "block device", "pipe", "contiguous"],
)
def test_nothing_but_files_and_folders_comes_out_of_a_tar(tmp_path: Path, kind: bytes):
    odd = member("odd", kind=kind, linkname="/etc/passwd")
    archive = tarred(tmp_path / "a.tar", member("SKILL.md", TEXT), odd, mode="w")
    if kind == tarfile.CONTTYPE:  # an ordinary file to everyone by now
        assert set(fetched(archive)[1]) == {"SKILL.md", "odd"}
    else:
        assert "holds files and folders only" in refused(archive)


def test_a_link_or_a_device_in_a_zip_is_refused(tmp_path: Path):
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        path = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("SKILL.md", TEXT)
            odd = zipfile.ZipInfo("odd")
            odd.create_system = 3
            odd.external_attr = (kind | 0o777) << 16
            archive.writestr(odd, "/etc/passwd")
        assert "holds files and folders only" in refused(path)


def test_an_encrypted_member_is_refused(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT))
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    archive.write_bytes(data)
    assert "encrypted" in refused(archive)


# -- sizes ------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path):
    bomb = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), ("zeros", bytes(4 * 1024 * 1024)))
    assert "declares 4,194," in refused(bomb)


def test_a_bomb_that_declares_less_is_refused_by_what_it_is(tmp_path: Path):
    bomb = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), ("zeros", bytes(4 * 1024 * 1024)))
    data = bomb.read_bytes().replace(struct.pack("<L", 4 * 1024 * 1024), struct.pack("<L", 100))
    bomb.write_bytes(data)
    assert "cannot be read" in refused(bomb)
    for mode, name in (("w:gz", "b.tar.gz"), ("w:xz", "b.tar.xz")):
        tar = tarred(
            tmp_path / name, member("SKILL.md", TEXT), member("zeros", bytes(4 * 1024 * 1024)), mode=mode
        )
        assert "1,048,576 bytes" in refused(tar)


@pytest.mark.long
def test_a_bomb_within_the_bounds_is_refused_by_its_ratio(tmp_path: Path):
    large = TreeBounds()
    zeros = bytes(RATIO_FREE_BYTES + 1024)
    assert "are allowed" in refused(zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), ("zeros", zeros)), large)
    tar = tarred(tmp_path / "a.tar.xz", member("SKILL.md", TEXT), member("zeros", zeros), mode="w:xz")
    assert "more than 8,388,608 bytes" in refused(tar, large)


def test_too_many_entries_are_refused_whatever_they_are(tmp_path: Path):
    files = [(f"f{number}", b"") for number in range(60)]
    assert "more than 50" in refused(zipped(tmp_path / "a.zip", ("SKILL.md", TEXT), *files))
    folders = [member(f"d{number}", kind=tarfile.DIRTYPE) for number in range(60)]
    assert "more than 50" in refused(tarred(tmp_path / "a.tgz", member("SKILL.md", TEXT), *folders))
    same = [member("d", kind=tarfile.DIRTYPE) for _ in range(60)]
    assert "more than 50" in refused(tarred(tmp_path / "b.tgz", member("SKILL.md", TEXT), *same))


def test_attributes_without_end_are_refused_before_they_fill_the_memory(tmp_path: Path):
    long = member("SKILL.md", TEXT, pax_headers={"comment": "x" * 1_000_000})
    assert "more about one of its members" in refused(tarred(tmp_path / "a.tar.gz", long))
    name = member("n" * 200_000, b"")
    gnu = tarred(tmp_path / "b.tar.gz", name, form=tarfile.GNU_FORMAT)
    assert "more about one of its members" in refused(gnu)


def test_an_xz_stream_that_demands_much_memory_is_refused(tmp_path: Path):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.addfile(*((info := member("SKILL.md", TEXT))[0], io.BytesIO(info[1])))
    packed = bytearray(lzma.compress(plain.getvalue(), preset=0))
    # The size of the dictionary stands in the block's header, which has a checksum of its own.
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    at = header.index(b"\x21\x01") + 2
    header[at] = 34  # 512 MiB
    header[-4:] = struct.pack("<L", zlib.crc32(bytes(header[:-4])))
    packed[12 : 12 + len(header)] = header
    path = tmp_path / "a.tar.xz"
    path.write_bytes(packed)
    assert "cannot be read" in refused(path)


def test_a_table_of_contents_that_fills_the_memory_is_not_read(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", ("SKILL.md", TEXT))
    data = bytearray(archive.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 100 * 1024 * 1024)
    archive.write_bytes(data)
    assert "table of contents" in refused(archive)


# -- damage -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    skill = make_skill(folder, "pdf", more="text " * 200)
    archives: dict[str, bytes] = {}
    for name, pack in (
        ("a.zip", pack_zip),
        ("a.tar", pack_tar("w")),
        ("a.tgz", pack_tar("w:gz")),
        ("a.tar.xz", pack_tar("w:xz")),
    ):
        pack(skill, folder / name)
        archives[name] = (folder / name).read_bytes()
    return archives


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz"])
def test_an_archive_that_ends_too_early_is_never_half_a_skill(
    tmp_path: Path, whole: dict[str, bytes], name: str
):
    path = tmp_path / name
    path.write_bytes(whole[name])
    expected = fetched(path)
    data = whole[name]
    for cut in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:cut])
        try:
            came = fetched(path)
        except (InvalidSkill, ToolError):
            continue
        assert came == expected


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz"])
@settings(max_examples=20)
@given(data=st.data())
def test_whatever_the_bytes_are_there_is_a_sentence_or_a_skill(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], name: str, data: st.DataObject
):
    archive = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(archive)
    try:
        fetched(path)
    except (InvalidSkill, ToolError) as error:
        assert str(error)  # noqa: PT017 - not raising is right as well


def test_something_else_under_the_name_of_an_archive_is_refused(tmp_path: Path):
    for name in ("a.zip", "a.tar", "a.tar.gz", "a.tar.xz"):
        (tmp_path / name).write_bytes(b"something else " * 100)
        refused(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"something else " * 100))
    refused(tmp_path / "b.tar.gz")


def test_an_archive_that_is_a_link_is_not_followed(tmp_path: Path):
    zipped(tmp_path / "a.zip", ("SKILL.md", TEXT))
    (tmp_path / "link.zip").symlink_to("a.zip")
    assert "is a link" in refused(tmp_path / "link.zip")
