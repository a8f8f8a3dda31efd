"""A command is given what a rule lets through, and the names of the rest are told."""

from custody.sandbox import build_environment

PARENT = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "LC_TOKEN": "looks like a locale",
    "API_TOKEN": "secret",
    "EDITOR": "vi",
    "HTTPS_PROXY": "http://proxy",
}


def looks_secret(name: str) -> bool:
    return name.endswith("TOKEN")


def test_the_command_line_hands_on_all_but_secrets() -> None:
    environment, withheld = build_environment(PARENT, "all_but_secret", {}, looks_secret)
    assert environment == {name: PARENT[name] for name in ("PATH", "HOME", "LC_ALL", "EDITOR", "HTTPS_PROXY")}
    assert withheld == ("API_TOKEN", "LC_TOKEN")


def test_doors_that_serve_agents_hand_on_the_allow_list() -> None:
    environment, withheld = build_environment(PARENT, "allow_list", {}, looks_secret)
    assert environment == {name: PARENT[name] for name in ("PATH", "HOME", "LC_ALL", "HTTPS_PROXY")}
    assert withheld == ("API_TOKEN", "EDITOR", "LC_TOKEN")


def test_a_name_that_was_asked_for_wins() -> None:
    add = {"API_TOKEN": "given", "PATH": "/own", "NEW": "1"}
    environment, withheld = build_environment(PARENT, "allow_list", add, looks_secret)
    assert (environment["API_TOKEN"], environment["PATH"], environment["NEW"]) == ("given", "/own", "1")
    assert withheld == ("EDITOR", "LC_TOKEN")


def test_the_parents_environment_is_left_as_it_is() -> None:
    parent = dict(PARENT)
    environment, _ = build_environment(parent, "all_but_secret", {"NEW": "1"}, looks_secret)
    environment["MORE"] = "2"
    assert parent == PARENT
