"""The journal's functions in C give what their twins in Python give, and fail as they do."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.how_many import as_many
from tests.implementations import built

from custody import native
from custody.journal.disk import RealDisk, RealFile
from custody.journal.disk_memory import MemoryDisk
from custody.journal.frames import encode_frame_in_python, sha256_in_pieces
from custody.journal.put import put_frame_in_python
from custody.journal.tree import grow_in_python

pytestmark = built

FRAME = (7, 9, 4, 8, b"leaf", b"a salted payload")


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_a_digest_is_the_same_in_both(parts: list[bytes]) -> None:
    sha256 = needed("sha256")
    assert sha256(*parts) == sha256_in_pieces(*parts)


@pytest.mark.parametrize("size", [0, 55, 56, 63, 64, 65, 119, 120, 128, 2047, 2048, 1_000_000])
def test_a_digest_of_any_length_is_the_same_in_both(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert needed("sha256")(data[:size]) == sha256_in_pieces(data[:size])


@settings(max_examples=as_many(300))
@given(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
        st.binary(max_size=300),
        st.binary(max_size=5000),
    )
)
def test_a_frame_is_the_same_in_both(frame: Any) -> None:
    assert needed("encode_frame")(*frame) == encode_frame_in_python(*frame)


@given(st.lists(st.binary(max_size=100), max_size=70))
def test_a_frontier_grows_the_same_in_both(leaves: list[bytes]) -> None:
    grow = needed("grow")
    in_c: list[bytes] = []
    in_python: list[bytes] = []
    for size, leaf in enumerate(leaves):
        grow(in_c, size, leaf)
        grow_in_python(in_python, size, leaf)
        assert in_c == in_python


def test_a_frontier_of_another_size_is_refused_and_left_as_it_was() -> None:
    hashes = [bytes(32)]
    with pytest.raises(ValueError, match="not that of a tree"):
        needed("grow")(hashes, 3, b"leaf")
    assert hashes == [bytes(32)]


@pytest.mark.parametrize("size", [0, 3000, 4056, 4057, 100_000])
def test_a_frame_is_put_the_same_by_both(tmp_path: Path, size: int) -> None:
    frame = (*FRAME[:5], bytes(range(256)) * (size // 256) + bytes(size % 256))
    for disk in (RealDisk(tmp_path / "store"), MemoryDisk()):
        in_c, in_python = disk.open("c", create=True), disk.open("python", create=True)
        needed("put_frame")(in_c, 64, *frame)
        put_frame_in_python(in_python, 64, *frame)
        assert (
            in_c.read(200_000, 0) == in_python.read(200_000, 0) == bytes(64) + encode_frame_in_python(*frame)
        )
        in_c.close()
        in_python.close()


def test_a_put_that_fails_raises_what_the_files_own_put_raises(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "store")
    disk.open("x", create=True).close()
    unwritable, closed = disk.open("x", write=False), disk.open("x")
    closed.close()
    for file in (unwritable, closed):
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            needed("put_frame")(file, 0, *FRAME)
        assert (raised.value.errno, raised.value.filename) == (errno.EBADF, str(tmp_path / "store/x"))
    unwritable.close()


def test_a_put_that_is_cut_short_is_made_again_by_the_file_and_raises_why(tmp_path: Path) -> None:
    """The file may grow to 4 MiB and no further."""
    file = RealDisk(tmp_path / "store").open("x", create=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 4 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            needed("put_frame")(file, limit - 8, *FRAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (raised.value.errno, file.size_bytes()) == (errno.EFBIG, limit)
    file.close()


class Counting(RealFile):
    """Another file than the real one, though it derives from it."""

    __slots__ = ("offsets",)

    def put(self, data: bytes, offset: int) -> None:
        self.offsets = [offset]


def test_a_file_with_a_put_of_its_own_is_asked(tmp_path: Path) -> None:
    file = Counting(os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT), "x")
    needed("put_frame")(file, 8, *FRAME)
    assert (file.offsets, file.size_bytes()) == ([8], 0)
    file.close()


class Broken:
    def put(self, data: bytes, offset: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")


def test_what_another_files_put_raises_comes_through() -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        needed("put_frame")(Broken(), 0, *FRAME)
    with pytest.raises(AttributeError):
        needed("put_frame")(object(), 0, *FRAME)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sha256", ("text",)), ("sha256", (bytearray(b"x"),)),
        ("encode_frame", ()), ("encode_frame", (*FRAME, 1)), ("encode_frame", (1.0, *FRAME[1:])),
        ("encode_frame", (*FRAME[:4], "leaf", b"")), ("encode_frame", (*FRAME[:5], None)),
        ("put_frame", ()), ("put_frame", (None, "offset", *FRAME)),
        ("put_frame", (None, 0, *FRAME[:5], "text")),
        ("grow", ()), ("grow", ((), 0, b"")), ("grow", ([], b"", b"")), ("grow", ([], 0, "leaf")),
    ],
)  # fmt: skip
def test_c_refuses_what_is_not_its_own_arguments(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        needed(name)(*arguments)


@pytest.mark.parametrize(
    "frame", [(2**32, *FRAME[1:]), (7, 2**64, *FRAME[2:]), (7, -1, *FRAME[2:]), (*FRAME[:3], 256, b"", b"")]
)
def test_a_number_that_does_not_fit_its_field_is_refused(frame: tuple[Any, ...]) -> None:
    with pytest.raises(OverflowError):
        needed("encode_frame")(*frame)
    with pytest.raises(OverflowError):
        needed("put_frame")(Broken(), 0, *frame)
    with pytest.raises(OverflowError):
        needed("grow")([], -1, b"leaf")


def test_without_memory_every_function_raises_or_answers_and_changes_nothing_by_halves() -> None:
    memory = pytest.importorskip("_testcapi")
    hashes: list[bytes] = []
    for size in range(7):
        grow_in_python(hashes, size, b"leaf")
    raised = 0
    for start in range(1, 12):
        for work in (
            lambda: needed("sha256")(b"x"),
            lambda: needed("encode_frame")(*FRAME),
            lambda: needed("grow")([*hashes], 7, b"leaf"),
        ):
            try:
                memory.set_nomemory(start, start + 1)
                work()
            except MemoryError:
                raised += 1
            finally:
                memory.remove_mem_hooks()
    assert raised > 0


# -- without it ----------------------------------------------------------------------------------------

RECORD = """
import sys, types
module = {module}
sys.modules["custody._native"] = module
from custody import native
from custody.journal import Journal, RealDisk
from custody.recorder import Recorder
from custody.records import Event, IdSource, decode_payload
from custody.redaction import Redactor
assert native.missing() == list(native.FUNCTIONS)
journal = Journal(RealDisk(sys.argv[1]))
recorder = Recorder(journal, Redactor(b"k" * 32), IdSource())
recorder.event("run.error", {{"text": "no", "password": "x"}})
journal.close()
print([decode_payload(stored.payload)["data"] for stored in journal.follow()][-1]["text"])
"""


@pytest.mark.parametrize("module", ["None", "types.SimpleNamespace(INTERFACE=0, sha256=None)"])
def test_a_module_that_is_missing_or_of_an_older_build_is_done_without(tmp_path: Path, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RECORD.format(module=module), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("no\n", "")


def needed(name: str) -> Any:
    function = getattr(native, name)
    if function is None:
        pytest.skip(f"this processor has no instructions for {name}")
    return function
