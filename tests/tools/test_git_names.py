"""Names, revisions, addresses and arguments as callers write them, before git sees them."""

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.how_many import as_many

from custody.records import Usage
from custody.sandbox import Finished, Output
from custody.tools.git.arguments import OPERATIONS, SCHEMA, problem
from custody.tools.git.command import environment, failure
from custody.tools.git.names import address_of, branch_problem, range_of, revision_problem
from custody.tools.git.repository import Changed, parse_status
from custody.tools.schema import ArgumentsSchema

NAMES = """
    main feature/x a.b a-b-c ünïcödé feature/JIRA-12_x 1.0 v1.0.0-rc.1 x@y a{b
    -x --upload-pack=x .x x. x/ /x x//y x..y x.lock x.lock/y x/.y x~1 x^ x:y x?y x*y x[y x\\y @ HEAD @{u}
    x@{1}
""".split()


def git_takes(name: str) -> bool:
    done = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], capture_output=True, timeout=30)
    return done.returncode == 0


@settings(max_examples=as_many(150))
@given(st.text(st.sampled_from("ab/.-@{}~^:?*[\\ lock\t\x7fé"), max_size=12))
@example("a.lock")
@example("a/b.lock/c")
@example("@{")
def test_a_branch_name_is_taken_only_where_git_takes_it(name: str) -> None:
    if branch_problem(name) is None:
        assert git_takes(name)
    else:
        assert not git_takes(name) or name.startswith("-") or name in ("@", "HEAD")


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_branch_names_are_fine_and_options_are_not(name: str) -> None:
    assert (branch_problem(name) is None) == (
        git_takes(name) and name not in ("-x", "--upload-pack=x", "@", "HEAD")
    )


def test_a_branch_name_is_bounded() -> None:
    assert branch_problem("é" * 122) is None
    assert "244 bytes" in str(branch_problem("é" * 123))
    assert branch_problem("") == "The name of a branch is empty."


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("HEAD", ("HEAD", "", "")),
        ("a..b", ("a", "b", "..")),
        ("a...b", ("a", "b", "...")),
        ("..b", ("HEAD", "b", "..")),
        ("a..", ("a", "HEAD", "..")),
        ("HEAD:../x", ("HEAD:../x", "", "")),
        ("HEAD@{1}..HEAD~2", ("HEAD@{1}", "HEAD~2", "..")),
    ],
)
def test_a_range_is_taken_apart(text: str, sides: tuple[str, str, str]) -> None:
    assert range_of(text) == sides


@pytest.mark.parametrize(
    "text", ["HEAD", "HEAD~3", "main^2", "@{u}", "a..b", "v1.0:src/x.py", ":/fix", "HEAD^{/x}"]
)
def test_revisions_that_git_understands_are_let_through(text: str) -> None:
    assert revision_problem(text) is None


@pytest.mark.parametrize(
    "text", ["", "-x", "--output=x", "a..-x", "a...--output=x", "a\nb", "a\0b", "x" * 1025]
)
def test_what_could_be_an_option_or_a_second_line_is_no_revision(text: str) -> None:
    assert revision_problem(text) is not None


ADDRESSES = {
    "https://github.com/x/y.git": "https",
    "HTTPS://github.com/x/y": "https",
    "https://user:secret@host:8443/x": "https",
    "https://[::1]/x": "https",
    "ssh://git@host/x.git": "ssh",
    "ssh://git@host:2222/x.git": "ssh",
    "git@github.com:x/y.git": "ssh",
    "host:x/y": "ssh",
    "/srv/git/x.git": "local",
    "../x": "local",
    "./a:b": "local",
    "x": "local",
    "file:///srv/git/x.git": "local",
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_each_way_to_a_repository_is_recognised(url: str) -> None:
    address = address_of(url)
    assert address.kind == ADDRESSES[url]
    assert address.text == url.removeprefix("file://")


@pytest.mark.parametrize(
    "url",
    [
        "", "-x", "--upload-pack=x", "ext::sh -c x", "fd::17", "ext::", "x::y", "transport+ext::x", "host::x",
        "http://host/x", "git://host/x", "ftp://host/x", "file://host/x", "file://", "https://", "https://-x/y",
        "https://host x", "https://h/\n", "https://h", "https://h/", "ssh://host", "ssh://-oProxyCommand=x/y",
        "ssh://git@-x/y", "ssh://user name@host/x", "-oProxyCommand=x:y", "git@-x:y", "git@host:-x", "a:",
        "a b:c", "x\ny", "x\0y", "y" * 2049,
    ],
)  # fmt: skip
def test_no_other_way_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match="`url`"):
        address_of(url)


SCHEMA_OF_ARGUMENTS = ArgumentsSchema(SCHEMA, "git")

WRONG = [
    ({"operation": "status", "limit": 3}, "`limit` is not for status"),
    ({"operation": "log", "message": "x"}, "`message` is not for log"),
    ({"operation": "add"}, "either `files` or `all`"),
    ({"operation": "add", "files": ["x"], "all": True}, "either `files` or `all`"),
    ({"operation": "commit"}, "needs a `message`"),
    ({"operation": "commit", "message": "  "}, "needs a `message`"),
    ({"operation": "commit", "message": "", "amend": True}, "needs a `message`"),
    ({"operation": "commit", "message": "x", "files": ["x"], "all": True}, "not both"),
    ({"operation": "commit", "message": "x\0"}, "NUL"),
    ({"operation": "branch", "delete": True}, "needs a `name`"),
    ({"operation": "branch", "name": "x", "delete": True, "revision": "y"}, "by its `name` alone"),
    ({"operation": "branch", "name": "-D"}, "no name for a branch"),
    ({"operation": "checkout"}, "needs a `name`"),
    ({"operation": "checkout", "name": "x", "revision": "y"}, "only with `create`"),
    ({"operation": "checkout", "create": True, "revision": "y"}, "needs the `name`"),
    ({"operation": "checkout", "files": ["x"], "force": True}, "only a `revision`"),
    ({"operation": "checkout", "revision": "--orphan=x"}, "no revision"),
    ({"operation": "stash", "entry": 1}, "`entry` is not for stash push"),
    ({"operation": "stash", "action": "pop", "message": "x"}, "`message` is not for stash pop"),
    ({"operation": "stash", "action": "list", "entry": 1}, "`entry` is not for stash list"),
    ({"operation": "pull", "remote": "--upload-pack=x"}, "no name for a remote"),
    ({"operation": "clone"}, "needs a `url`"),
    ({"operation": "clone", "url": "ext::sh"}, "runs a program"),
    ({"operation": "revert"}, "needs the `revision`"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_arguments_that_cannot_be_meant_are_refused_with_words(
    arguments: dict[str, object], words: str
) -> None:
    assert SCHEMA_OF_ARGUMENTS.violation(arguments) is None
    assert words in str(problem(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"operation": "status"},
        {"operation": "commit", "amend": True},
        {"operation": "commit", "message": "-x"},
        {"operation": "checkout", "name": "x", "create": True, "revision": "HEAD~1"},
        {"operation": "checkout", "files": ["x"], "revision": "HEAD~1"},
        {"operation": "branch"},
        {"operation": "stash", "action": "pop", "entry": 2},
        {"operation": "clone", "url": "git@host:x", "name": "main", "depth": 1},
    ],
)
def test_arguments_that_make_sense_are_let_through(arguments: dict[str, object]) -> None:
    assert (SCHEMA_OF_ARGUMENTS.violation(arguments), problem(arguments)) == (None, None)


def test_every_argument_of_an_operation_is_in_the_schema() -> None:
    assert set().union(*OPERATIONS.values()) | {"operation", "path"} == set(SCHEMA["properties"])


def test_git_gets_no_setting_of_ours_that_points_it_elsewhere() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/home/ada", "GIT_DIR": "/x", "GIT_WORK_TREE": "/x", "GIT_INDEX_FILE": "/x",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_PARAMETERS": "'a=b'", "GIT_EXTERNAL_DIFF": "x", "GIT_TRACE": "1",
        "GIT_EXEC_PATH": "/x", "GIT_ASKPASS": "x", "SSH_ASKPASS": "x", "DISPLAY": ":0", "EDITOR": "vi",
        "GIT_AUTHOR_NAME": "Ada", "GIT_SSH_COMMAND": "ssh -i key", "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de",
    }  # fmt: skip
    assert environment(ours, ("https", "ssh")) == {
        "PATH": "/bin", "HOME": "/home/ada", "GIT_AUTHOR_NAME": "Ada", "GIT_SSH_COMMAND": "ssh -i key",
        "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "GIT_EDITOR": ":", "GIT_PAGER": "cat",
        "GIT_SEQUENCE_EDITOR": ":", "GIT_OPTIONAL_LOCKS": "0", "GIT_MERGE_AUTOEDIT": "no",
        "GCM_INTERACTIVE": "never",
        "SSH_ASKPASS_REQUIRE": "never", "GIT_ALLOW_PROTOCOL": "https:ssh",
    }  # fmt: skip


def finished(stdout: bytes, stderr: bytes) -> Finished:
    outputs = [Output(data, len(data), 0, len(data)) for data in (stdout, stderr)]
    return Finished(
        exit_code=128, signal=None, limit_hit=None, stdout=outputs[0], stderr=outputs[1], usage=Usage(),
        child_pid=1,
        child_start_ticks=1, started_monotonic_ns=0, ended_monotonic_ns=1, tree_killed=0,
    )  # fmt: skip


def test_a_failure_has_gits_own_words_and_is_bounded() -> None:
    error = failure(finished(b"CONFLICT in x\n", b"error: could not apply\n"))
    assert error.message == "error: could not apply\nCONFLICT in x"
    assert error.details["exit_code"] == 128
    assert failure(finished(b"", b"")).message == "git ended with exit code 128 and said nothing."
    assert len(failure(finished(b"", b"x" * 10_000)).message) < 2100


def test_a_lock_that_was_left_is_named_with_what_to_do() -> None:
    said = b"fatal: Unable to create '/r/.git/index.lock': File exists.\n\nAnother git process seems"
    assert "delete /r/.git/index.lock" in str(failure(finished(b"", said)))


def test_status_is_read_in_every_form_it_has() -> None:
    data = (
        b"# branch.oid 1234\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -3\0"
        b"1 .M N... 100644 100644 100644 aa bb with space\0"
        b"2 R. N... 100644 100644 100644 aa bb R100 new name\0old name\0"
        b"u UU N... 100644 100644 100644 100644 aa bb cc conflict\0"
        b"? \xff\n\0! ignored\0"
    )
    status = parse_status(data)
    assert status.branch == {
        "commit": "1234",
        "name": "main",
        "upstream": "origin/main",
        "ahead": 2,
        "behind": 3,
    }
    assert status.entries == (
        Changed("with space", ".", "M"),
        Changed("new name", "R", ".", "old name"),
        Changed("conflict", "U", "U"),
        Changed("\udcff\n", "?", "."),
        Changed("ignored", "!", "."),
    )
    assert parse_status(b"# branch.oid (initial)\0# branch.head (detached)\0").branch == {
        "commit": None,
        "name": None,
    }
