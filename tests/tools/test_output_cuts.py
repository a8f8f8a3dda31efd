"""Secrets of a command's own environment that it prints across the place where its output is cut."""

import asyncio
import os
import sys

import pytest

from custody.compose import open_runtime
from custody.sandbox.output import KEEP_HEAD_BYTES, KEEP_TAIL_BYTES
from custody.settings import load_settings

PRINTER = """
import os, sys
before, after = int(sys.argv[1]), int(sys.argv[2])
filler = b"some other words of a log " * 20_000
sys.stdout.buffer.write(filler[:before] + os.environb[b"DEPLOY_PASSWORD"] + filler[:after])
"""


@pytest.mark.parametrize(
    "secret",
    ["correct horse battery staple", "first line of it\nsecond line of it\n\nthe last line", "q7" * 3_000],
    ids=["blanks", "lines", "long"],
)
def test_a_secret_that_a_command_prints_across_the_cut_leaves_no_half(secret, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store"

    async def use() -> None:
        settings = load_settings(store=os.fspath(store))
        async with await open_runtime(
            settings, environment_added={"DEPLOY_PASSWORD": secret}, agent="tester"
        ) as runtime:
            for inside in (1, 5, 9, 20, len(secret) // 2, len(secret) - 1):
                for before, after in (
                    (KEEP_HEAD_BYTES - inside, 400_000),
                    (400_000, KEEP_TAIL_BYTES - len(secret) + inside),
                ):
                    argv = [sys.executable, "-I", "-S", "-c", PRINTER, str(before), str(after)]
                    call = await runtime.call("exec", {"argv": argv})
                    assert (call.outcome, call.limit_hit) == ("succeeded", "output"), call.error
                    assert call.usage is not None
                    dropped = call.result["stdout_dropped_bytes"]
                    assert dropped == call.usage.stdout_dropped_bytes > 0
                    kept = call.result["stdout"].replace(secret, "")
                    assert len(kept.encode()) + dropped == len(secret) + before + after
                    halves = {secret[at : at + 6] for at in range(len(secret) - 5)}
                    assert not [half for half in halves if half in kept], inside

    asyncio.run(use())
