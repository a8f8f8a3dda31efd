import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from custody.errors import InvalidSetting
from custody.sandbox.walls import NAMED, Sandbox, narrowed
from custody.sandbox.walls.model import NAMES_MAX, PATHS_MAX, PROCESSES_MAX, beneath_both, is_beneath

NETWORKS = ("none", "loopback", "listed", "open")


def test_four_sandboxes_have_names_and_each_is_wider_than_the_one_before() -> None:
    assert list(NAMED) == ["read_only", "workspace", "network", "open"]
    assert {name: sandbox.name for name, sandbox in NAMED.items()} == {name: name for name in NAMED}
    names = list(NAMED)
    for at, wider in enumerate(names):
        for narrower in names[: at + 1]:
            assert narrowed(NAMED[wider], NAMED[narrower]).name == narrower
            assert narrowed(NAMED[narrower], NAMED[wider]).name == narrower


def test_only_open_reaches_beyond_the_roots_and_only_it_and_network_reach_hosts() -> None:
    assert {name: (s.roots, s.read, s.write, s.network) for name, s in NAMED.items()} == {
        "read_only": ("read", (), (), "none"),
        "workspace": ("write", (), (), "listed"),
        "network": ("write", (), (), "open"),
        "open": ("write", ("/",), ("/",), "open"),
    }


def test_a_sandbox_that_says_nothing_allows_the_least() -> None:
    bounded = structs.replace(Sandbox(name="bare"), name="read_only", processes=PROCESSES_MAX)
    assert bounded == NAMED["read_only"]


def test_the_named_ones_and_their_fields_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        NAMED["read_only"] = NAMED["open"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        NAMED["read_only"].network = "open"  # type: ignore[misc]


def test_equal_sandboxes_are_one_key_and_what_is_done_to_a_mapping_later_changes_none() -> None:
    limits = {"nofile": 64, "fsize": 10}
    one = Sandbox(name="one", limits=limits)
    other = Sandbox(name="one", limits={"fsize": 10, "nofile": 64})
    limits["nofile"] = -1
    assert one == other
    assert {one: 1}[other] == 1
    assert {one, structs.replace(one, network="open"), structs.replace(one, limits={})} > {one}


def test_it_comes_through_json_as_it_was() -> None:
    sandbox = Sandbox(
        name="build", roots="write", read=("/srv/data",), network="listed", hosts=("registry.example",),
        limits={"nofile": 64}, environment=("PATH",), execute=("/usr",), memory_bytes=1 << 30,
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(sandbox), type=Sandbox) == sandbox
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"name":"build","netwrok":"open"}', type=Sandbox)


@pytest.mark.parametrize(
    "field",
    [
        {"name": ""}, {"name": "Two words"}, {"name": "a" * 256},
        {"roots": "all"}, {"network": "internet"},
        {"read": ("relative",)}, {"read": ("/srv/../etc",)}, {"write": ("/srv/",)}, {"write": ("//srv",)},
        {"write": ("/srv//a",)}, {"write": ("/srv/./a",)}, {"write": ("/srv\0",)}, {"execute": ("",)},
        {"read": ("/" + "a" * 4096,)}, {"read": ("/\ud800",)}, {"read": ("/srv",) * (PATHS_MAX + 1)},
        {"hosts": ("registry.example",)}, {"network": "listed", "hosts": ("",)},
        {"environment": ("A=B",)}, {"environment": ("A\nB",)}, {"environment": ("A",) * (NAMES_MAX + 1)},
        {"memory_bytes": 0}, {"processes": -1}, {"cpu_percent": 0}, {"memory_bytes": True},
        {"memory_bytes": 2**63}, {"limits": {"nofiles": 1}}, {"limits": {"NOFILE": 1}},
        {"limits": {"nofile": -2}}, {"limits": {"nofile": 2**63}},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_without_repeating_it(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Sandbox(**({"name": "build"} | field))
    assert next(reversed(field)) in str(refused.value)
    for path in ("/etc", "relative", "/srv", "internet", "Two words", "nofiles"):
        assert path not in str(refused.value)


# -- narrowing ------------------------------------------------------------------------------------------

paths = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
path_lists = st.lists(paths, max_size=4).map(tuple)
amounts = st.none() | st.integers(1, 4)
sandboxes = st.builds(
    lambda network, hosts, **fields: Sandbox(
        network=network, hosts=hosts if network == "listed" else (), **fields
    ),
    network=st.sampled_from(NETWORKS),
    hosts=st.lists(st.sampled_from(["x.example", "y.example"]), max_size=2).map(tuple),
    name=st.sampled_from(["one", "two"]),
    roots=st.sampled_from(["read", "write"]),
    read=path_lists,
    write=path_lists,
    execute=st.none() | path_lists,
    memory_bytes=amounts,
    processes=amounts,
    cpu_percent=amounts,
    limits=st.dictionaries(st.sampled_from(["nofile", "fsize"]), st.integers(-1, 4)),
    environment=st.none() | st.lists(st.sampled_from(["PATH", "HOME"]), max_size=2).map(tuple),
)
PLACES = ["/", *(f"/{a}{b}" for a in ("a", "b", "ab") for b in ("", "/a", "/ab", "/a/b", "/a/b/new"))]


def allowed(sandbox: Sandbox) -> dict[str, set[Any]]:
    """Everything it allows, one by one: what is wider has more in some of the sets and less in none."""

    def places(folders: tuple[str, ...]) -> set[str]:
        return {place for place in PLACES if any(is_beneath(place, folder) for folder in folders)}

    def amount(value: int | None) -> set[int]:
        return set(range(6)) if value is None or value == -1 else set(range(value + 1))

    readable = places((*sandbox.read, *sandbox.write))
    return {
        "roots": {"read", sandbox.roots},
        "read": readable,
        "write": places(sandbox.write),
        "execute": readable if sandbox.execute is None else readable & places(sandbox.execute),
        "execute in roots": set(PLACES) if sandbox.execute is None else places(sandbox.execute),
        "network": set(NETWORKS[: NETWORKS.index(sandbox.network) + 1]),
        "hosts": {
            "none": set(), "loopback": set(), "listed": set(sandbox.hosts),
            "open": {"x.example", "y.example"},
        }[sandbox.network],
        "memory_bytes": amount(sandbox.memory_bytes),
        "processes": amount(sandbox.processes),
        "cpu_percent": amount(sandbox.cpu_percent),
        "nofile": amount(sandbox.limits.get("nofile", -1)),
        "fsize": amount(sandbox.limits.get("fsize", -1)),
        "environment": {"PATH", "HOME"} if sandbox.environment is None else set(sandbox.environment),
    }  # fmt: skip


@given(sandboxes, sandboxes)
def test_narrowed_allows_what_both_allow_and_nothing_else(one: Sandbox, other: Sandbox) -> None:
    both, first, second = allowed(narrowed(one, other)), allowed(one), allowed(other)
    assert both == {name: first[name] & second[name] for name in both}


@pytest.mark.long
@settings(max_examples=50)
@given(sandboxes, sandboxes, sandboxes)
def test_the_order_of_narrowing_makes_no_difference_and_doing_it_again_changes_nothing(
    one: Sandbox, two: Sandbox, three: Sandbox
) -> None:
    assert allowed(narrowed(one, two)) == allowed(narrowed(two, one))
    left = narrowed(narrowed(one, two), three)
    assert allowed(left) == allowed(narrowed(one, narrowed(two, three)))
    assert narrowed(left, three) == narrowed(narrowed(left, three), three)


def test_a_link_beneath_an_allowed_place_does_not_lead_out_of_it(tmp_path: Path) -> None:
    base = os.path.realpath(tmp_path)
    for name in ("open", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "secret")
    one = Sandbox(name="one", write=(f"{base}/open/link",), execute=(f"{base}/open/link",))
    other = Sandbox(name="other", write=(f"{base}/open",), execute=(f"{base}/open",))
    for narrower in (narrowed(one, other), narrowed(other, one)):
        assert (narrower.read, narrower.write, narrower.execute) == ((), (), ())
    other = Sandbox(name="other", write=(f"{base}/secret",))
    assert narrowed(one, other).write == (f"{base}/secret",)


def test_the_name_says_what_was_joined_and_does_not_grow_for_ever() -> None:
    one = Sandbox(name="one", memory_bytes=10, processes=20)
    two = Sandbox(name="two", memory_bytes=20, processes=10)
    joined = narrowed(one, two)
    assert joined.name == "one+two"
    assert narrowed(narrowed(joined, two), one).name == "one+two"
    for at in range(100):
        three = Sandbox(name=f"sandbox_{at}", memory_bytes=100 - at)
        joined = narrowed(joined, structs.replace(three, cpu_percent=1000 - at))
    assert len(joined.name) <= 255


def test_a_folder_is_not_beneath_one_whose_name_begins_as_its_own() -> None:
    assert is_beneath("/srv/a", "/srv")
    assert is_beneath("/srv", "/")
    assert not is_beneath("/srv-other", "/srv")
    assert beneath_both(["/srv", "/home/a"], ["/srv/a", "/srv-other", "/home"]) == ("/home/a", "/srv/a")
    assert beneath_both(["/", "/srv"], ["/srv/a", "/srv"]) == ("/srv",)
