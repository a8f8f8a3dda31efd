"""The build of the C parts: done where it can be, said and left out where it cannot."""

import importlib.util
import shlex
import shutil
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["_filter.h", "_native.c"]

compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
with_compiler = pytest.mark.skipif(shutil.which(compiler) is None, reason="there is no C compiler")


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "src" / "custody"
    folder.mkdir(parents=True)
    for name in SOURCES:
        shutil.copy(ROOT / "src/custody" / name, folder)
    return folder


@with_compiler
def test_the_module_is_built_beside_its_source(hook: ModuleType, sources: Path, tmp_path: Path) -> None:
    built = hook.compile_native(tmp_path)
    if isinstance(built, str):
        pytest.skip(built)  # a compiler, but not Python's headers
    assert built == sources / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert sorted(path.name for path in sources.iterdir()) == sorted([*SOURCES, built.name])


@with_compiler
def test_a_source_that_does_not_compile_leaves_no_module_and_the_reason(
    hook: ModuleType, sources: Path, tmp_path: Path
) -> None:
    stale = sources / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    stale.touch()
    (sources / "_native.c").write_text("int broken(", encoding="utf-8")
    assert "the compiler said: " in hook.compile_native(tmp_path)
    assert sorted(path.name for path in sources.iterdir()) == SOURCES


def test_without_a_compiler_the_reason_says_so(
    hook: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "the compiler could not be used" in hook.compile_native(tmp_path)
