"""Where settings come from, and what they may say."""

import os
import time

import pytest
from tests.settings_for_tests import NEVER_SHORT

import custody
from custody.client import Address
from custody.compose import daemon_token
from custody.errors import InvalidPolicy, InvalidSetting, StoreUnusable, UsageError
from custody.journal import RealDisk
from custody.rpc.tokens import Tokens
from custody.settings import default_store, load_settings, store_path, workspace_of


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "custody.toml"
    monkeypatch.setenv("CUSTODY_CONFIG", os.fspath(path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return path


@pytest.mark.parametrize("uids", ["[0, 10]", "[999, 2]", "[65000, 1000]", "[70000, 0]", "[4294967295, 1]"])
def test_commands_of_root_run_as_nobody_who_could_be_somebody(config, uids):
    config.write_text(f"[sandbox]\nuids = {uids}")
    with pytest.raises(InvalidSetting, match=r"sandbox\.uids cannot be used"):
        load_settings()


def test_a_range_of_users_for_commands_of_root_can_be_named(config):
    assert load_settings().file.sandbox.uids is None
    config.write_text("[sandbox]\nuids = [80000, 100]")
    assert load_settings().file.sandbox.uids == (80_000, 100)


def test_without_any_file_the_defaults_hold(config):
    settings = load_settings()

    assert settings.file.calls.timeout_seconds == 30
    assert settings.files_read == ()
    assert settings.cwd in settings.roots


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[calls]\ntimeout = 3", "timeout"),
        ("[calls]\ntimeout_seconds = 'soon'", "calls.timeout_seconds"),
        ("[calls]\nparallel = 0", "calls.parallel"),
        ("[calls]\ntimeout_seconds = -1", "calls.timeout_seconds"),
        ("[call]\n", "call"),
        ("calls = [", "custody.toml"),
        ("[[policy.rules]]\ndeny_tools = 'x'", "deny_tools"),
        ("[breaker]\nmemory = 3", "memory"),
        ("[calls]\nlimits = {files = 3}", "calls.limits.files"),
        ("[tools]\nkeep = {exec = 'some'}", "tools.keep"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(config, text, names):
    config.write_text(text)

    with pytest.raises(InvalidSetting) as caught:
        load_settings()

    assert os.fspath(config) in str(caught.value)
    assert names in str(caught.value)


def test_a_rule_of_the_user_denies_a_tool_and_says_which_rule_did(config):
    config.write_text(
        NEVER_SHORT + '[[policy.rules]]\nname = "no shells"\ndeny_tool = "shell"\nreason = "use exec"\n'
    )

    with custody.open(":memory:") as runtime:
        denied = runtime.call("shell", {"command": "true"})
        allowed = runtime.call("exec", {"argv": ["true"]})

    assert (denied.outcome, denied.decision.by, denied.decision.rule) == ("rejected", "rule", "no shells")
    assert "use exec" in denied.reason
    assert allowed.outcome == "succeeded"


def test_a_workspace_may_add_rules_and_nothing_else(config, tmp_path, monkeypatch):
    workspace = tmp_path / "repository"
    (workspace / ".git").mkdir(parents=True)
    (workspace / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(workspace / "deep" / "er")
    config.write_text(NEVER_SHORT)
    own = workspace / "custody.toml"
    own.write_text('[[policy.rules]]\ndeny_tool_param = {tool = "exec", param = "argv.0", equals = "curl"}\n')

    assert load_settings().workspace == os.fspath(workspace)
    with custody.open(":memory:") as runtime:
        assert runtime.call("exec", {"argv": ["curl", "x"]}).decision.by == "rule"

    own.write_text("[calls]\ntimeout_seconds = 0\n")
    with pytest.raises(InvalidSetting, match="only add"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("x = " + "[" * 20_000 + "]" * 20_000, "1:20004", "lists or tables are nested too deep"),
        ("[policy]\n" + "a." * 40_000 + "b = 1", "2:1", "a key of more than 32 parts"),
        ("\ufeff[calls]\nparallel = 3", "1:1", "a project's own file may only add a [policy]; it has calls"),
        (
            "[policy]\n[calls]\nparallel = 3",
            "2:1",
            "a project's own file may only add a [policy]; it has calls",
        ),
    ],
    ids=["deep", "long", "marked", "plain"],
)
def test_whatever_a_project_says_is_refused_at_its_place_and_soon(config, tmp_path, text, place, sentence):
    project = tmp_path / "work" / "custody.toml"
    project.write_text(text)
    began = time.thread_time()
    with pytest.raises(InvalidPolicy) as caught:
        load_settings()
    assert caught.value.message.startswith(f"{project}:{place}: {sentence}")
    assert time.thread_time() - began < 5


def test_a_workspace_is_the_root_of_the_working_tree_around(tmp_path):
    (tmp_path / "a" / ".git").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir()

    assert workspace_of(os.fspath(tmp_path / "a" / "b")) == os.fspath(tmp_path / "a")


def test_the_store_is_named_by_argument_then_environment_then_xdg(tmp_path):
    assert load_settings(store="/s").store == store_path("/s") == "/s"
    assert default_store({"CUSTODY_STORE": "/e", "XDG_DATA_HOME": "/x"}) == "/e"
    assert default_store({"XDG_DATA_HOME": "/x"}) == "/x/custody"
    assert load_settings(store="~/mine").store == os.path.join(os.path.expanduser("~"), "mine")


def test_the_daemons_token_is_found_whatever_the_policy_says(config, tmp_path):
    store = tmp_path / "store"
    token = Tokens(RealDisk(store)).ensure("serve")
    (tmp_path / "work" / "custody.toml").write_text("[policy\n")
    config.write_text("[calls\n")
    with pytest.raises(InvalidSetting):
        load_settings(store=os.fspath(store))

    assert daemon_token(Address.of("ws://127.0.0.1:9100"), os.fspath(store)) == token
    assert daemon_token(Address.of("wss://host.example"), os.fspath(store)) is None


def test_a_store_that_is_a_file_is_a_sentence_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnusable) as caught, custody.open(os.fspath(tmp_path / "file")):
        pass

    assert caught.value.hint


def test_a_url_that_is_no_daemons_is_not_a_store():
    with pytest.raises(UsageError):
        custody.open("https://localhost:9100")


def test_what_a_tool_said_can_be_kept_out_of_the_store_by_a_setting(config):
    config.write_text(NEVER_SHORT + '[tools]\nkeep = {exec = "none"}\n')

    with custody.open(":memory:") as runtime:
        call = runtime.call("exec", {"argv": ["echo", "private"]})
        found = runtime.index.call(call.id)

    assert call.result["stdout"] == "private\n"
    assert "private" not in repr((found.arguments, found.result))


def test_commands_run_under_the_resource_limits_of_the_settings(config):
    config.write_text(NEVER_SHORT + "[calls]\nlimits = {nofile = 64}\n")

    with custody.open(":memory:") as runtime:
        call = runtime.call("shell", {"command": "ulimit -n; ulimit -Hn"})

    assert call.result["stdout"] == "64\n64\n"
