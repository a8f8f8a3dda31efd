"""A launcher that is told of its overlays when it is walled in does what it is told to the letter, or it ends
and has run nothing."""

import marshal
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sandbox.commands import eventually
from tests.sandbox.overlays import Held
from tests.sandbox.test_confine import (
    Walled,
    walled,
)

from custody.sandbox.launcher import messages
from custody.sandbox.launcher.tree import children_of


def plan(held: Held) -> dict[str, Any]:
    store = str(held.upper.parent)
    wanted = held.plan(held.view(store=store))
    return wanted | {"later": store, "overlay": [(str(held.root), "", "")]}


def views(held: Held) -> list[Any]:
    root, upper = os.stat(held.root), os.stat(held.upper)
    return ["upper", "work", root.st_dev, root.st_ino, upper.st_dev, upper.st_ino]


def tell(launcher: Walled, *told: list[Any]) -> None:
    launcher.channel.send(messages.VIEWS + marshal.dumps(list(told)))


def test_it_takes_its_command_when_it_has_been_told(held: Held) -> None:
    before = held.state()
    with walled(plan(held), held.program) as launcher:
        tell(launcher, views(held))
        assert launcher.channel.recv(messages.REPLY.size) == messages.READY
        said = launcher.run("cat changed; rm -r folder; echo new >made", cwd=str(held.root))
        assert said == ["changed as it was"]
        assert launcher.channel.recv(messages.REPLY.size) == b""  # it serves one
    assert held.state() == before
    assert sorted(os.listdir(held.upper)) == ["folder", "made"]


def test_what_nobody_tells_anything_ends_and_leaves_nothing(held: Held) -> None:
    with walled(plan(held), held.program) as launcher:
        launcher.channel.close()
        assert launcher.refusal() == ("", 0)
    assert os.listdir(held.upper) == os.listdir(held.work) == []


def _swap(number: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda told: [*told[:number], value(told[number]), *told[number + 1 :]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_swap(3, lambda inode: inode + 1), id="another root is there"),
        pytest.param(_swap(2, lambda device: device + 1), id="the root is on another file system"),
        pytest.param(_swap(5, lambda inode: inode + 1), id="another layer is there"),
        pytest.param(_swap(0, lambda path: f"../held/{path}"), id="a path that leads out"),
        pytest.param(_swap(1, lambda path: f"/{path}"), id="a path from the top"),
        pytest.param(_swap(0, lambda _: "."), id="the store itself"),
        pytest.param(_swap(0, lambda _: "missing"), id="a folder that is not there"),
        pytest.param(_swap(0, lambda _: "link"), id="a link"),
        pytest.param(lambda told: told[:4], id="too little"),
    ],
)
def test_it_refuses_what_is_not_what_was_meant(held: Held, change: Callable[[list[Any]], list[Any]]) -> None:
    (held.upper.parent / "link").symlink_to("upper")
    with walled(plan(held), held.program) as launcher:
        tell(launcher, change(views(held)))
        said, code = launcher.refusal()
        assert (said.partition(":")[0], code) == ("overlay", 71)
    assert os.listdir(held.upper) == os.listdir(held.work) == []


def test_it_takes_no_command_before_it_is_told(held: Held) -> None:
    with walled(plan(held), held.program) as launcher:
        with launcher.begin("echo ran", cwd=str(held.root)) as output:
            said, code = launcher.refusal()
            assert output.read() == b""
        assert (said.partition(":")[0], code) == ("overlay", 71)


@pytest.mark.parametrize("told", [0, 2])
def test_it_refuses_views_that_are_not_as_many_as_its_roots(held: Held, told: int) -> None:
    with walled(plan(held), held.program) as launcher:
        tell(launcher, *[views(held)] * told)
        said, code = launcher.refusal()
        assert (said.partition(":")[0], code) == ("overlay", 71)


@pytest.mark.parametrize("change", [{"overlay": []}, {"later": "held"}, {"later": "/"}, {"later": "/x/../y"}])
def test_a_plan_that_makes_no_sense_is_refused(held: Held, change: dict[str, Any]) -> None:
    with walled(plan(held) | change, held.program) as launcher:
        said, code = launcher.refusal()
        assert (said.partition(":")[0], code) == ("plan", 71)


def test_what_would_be_read_only_beneath_an_overlay_is_refused(held: Held) -> None:
    wanted = plan(held)
    wanted["read_only"] = [*wanted["read_only"], str(held.root / "folder")]
    with walled(wanted, held.program) as launcher:
        said, code = launcher.refusal()
        assert (said.partition(":")[0], code) == ("overlay", 71)


def test_it_can_be_neither_read_nor_traced_while_it_waits(held: Held) -> None:
    if held.program is None and os.getuid() == 0:
        pytest.skip("root may read all there is")
    with walled(plan(held), held.program) as launcher:

        def owner() -> int | None:
            inside = list(children_of(launcher.process.pid))
            return os.stat(f"/proc/{inside[0]}/status").st_uid if inside else None

        eventually(lambda: owner() == 0)  # the kernel's word for what cannot be dumped; it is another's


def test_the_folder_of_a_plan_is_covered(held: Held) -> None:
    store = held.upper.parent
    (store / "of another call").mkdir()
    with walled(plan(held), held.program) as launcher:
        tell(launcher, views(held))
        assert launcher.channel.recv(messages.REPLY.size) == messages.READY
        assert launcher.run(f"ls -A {store} 2>/dev/null", cwd=str(held.root)) == []
    assert Path(store / "of another call").is_dir()
