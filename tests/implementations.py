"""Recording has a twin in Python for each function in C: which of the two a test runs on.

`with_each` is made the fixture of a module whose tests are to hold for both; `with_each_at_length`, where the
twins are compared with each other as well: then the one in Python has its turn in `make test-long`.
"""

from collections.abc import Iterator

import pytest

from custody import native, recorder
from custody.journal import frames, put, seals, shard, tree
from custody.redaction import needles, redactor

_BUILT = native.missing() != list(native.FUNCTIONS)

built = pytest.mark.skipif(not _BUILT, reason="the C parts were not built")
"""For tests of what is not there without a compiler."""


def use_python(patch: pytest.MonkeyPatch) -> None:
    for module in (frames, tree, seals, recorder):
        patch.setattr(module, "sha256", frames.sha256_in_pieces)
    for module in (frames, put, shard):
        patch.setattr(module, "encode_frame", frames.encode_frame_in_python)
    for module in (tree, shard):
        patch.setattr(module, "grow", tree.grow_in_python)
    patch.setattr(shard, "put_frame", put.put_frame_in_python)
    patch.setattr(redactor, "_encode_ordinary", None)
    patch.setattr(needles, "_find_in_c", None)
    patch.setattr(needles, "_level_in_c", None)


@pytest.fixture(params=[pytest.param("c", marks=built), "python"], autouse=True, scope="module")
def with_each(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from _with(request.param)


@pytest.fixture(
    params=[
        pytest.param("c", marks=built),
        pytest.param("python", marks=[pytest.mark.long] if _BUILT else []),
    ],
    autouse=True,
    scope="module",
)
def with_each_at_length(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from _with(request.param)


def _with(implementation: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if implementation == "python":
            use_python(patch)
        yield implementation
