"""Builds `custody._native` where there is a C compiler; without one Custody is installed as Python alone.

Used by hatchling alone, for wheels. An editable install gets the module beside its source.
"""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/custody/_native.c")

COMPILE_SECONDS = 120
"""It takes two on an ordinary machine."""


class NativeHook(BuildHookInterface):  # pyright: ignore[reportMissingTypeArgument]
    """See the module."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        built = compile_native(Path(self.root))
        if isinstance(built, str):
            self.app.display_warning(f"custody: recording will be slower, in Python alone: {built}")
        elif version != "editable":
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(built)] = f"custody/{built.name}"

    def clean(self, versions: list[str]) -> None:
        for built in (Path(self.root) / SOURCE).parent.glob("_native*.so"):
            built.unlink()


def compile_native(root: Path) -> Path | str:
    """The module that was built, or the reason why there is none."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python has no GIL, which the module relies on"
    source = root / SOURCE
    target = source.with_name(f"_native{sysconfig.get_config_var('EXT_SUFFIX')}")
    target.unlink(missing_ok=True)
    made = target.with_name(f".{target.name}.new")  # renamed when it is whole: a process may have it loaded
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    command = [
        *shlex.split(sysconfig.get_config_var("CC") or "cc"),
        "-O2", "-std=c11", "-Wall", "-fPIC", "-fvisibility=hidden", *link,
        f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}",
        str(source), "-o", str(made),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the compiler could not be used ({error})"
    if done.returncode != 0:
        made.unlink(missing_ok=True)
        return f"the compiler said: {next(iter(done.stderr.splitlines()), done.returncode)}"
    made.rename(target)
    return target
