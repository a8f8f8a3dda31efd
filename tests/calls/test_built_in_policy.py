"""What holds where no file says anything: which calls of agents are asked about, and what a yes opens."""

import asyncio
import os

import pytest

import custody
from custody.calls.answers import no, yes
from custody.calls.pause import begin_pause
from custody.calls.questions import Means, answer_question
from custody.compose import open_runtime
from custody.policy_files import change_trusted, layers_in_force, trust_path
from custody.settings import load_settings, user_settings_path
from custody.tools import ProcessIO
from custody.tools.file_write import FileWrite


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder outside of every root."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", os.fspath(temporary))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return elsewhere


@custody.tool(effect="irreversible")
def send(text: str) -> str:
    return text


@custody.tool
def plain(text: str) -> str:
    return text


class Person:
    """Somebody who sits at the door."""

    def __init__(self, says=yes, before=lambda: None):
        self.questions = []
        self._says = says
        self._before = before

    async def __call__(self, question):
        self.questions.append(question)
        self._before()
        return self._says(question, "kim")


async def _made(calls, person=None, *, door="python", store=":memory:", act=None, **options):
    settings = load_settings(store=store)
    async with await open_runtime(settings, tools=[send, plain], door=door) as runtime:
        runtime.prompt = person
        if act is not None:
            await asyncio.to_thread(act, runtime)
        return [await runtime.call(tool, arguments, **options) for tool, arguments in calls]


def made(*calls, **options):
    return asyncio.run(_made(calls, **options))


def write(path, content="new"):
    return "file_write", {"path": os.fspath(path), "content": content}


def project_rules(work, text):
    path = work / ".custody" / "policy" / "rules.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def users_rules(text):
    path = os.path.join(os.path.dirname(user_settings_path()), "policy.toml")
    with open(path, "w") as file:
        file.write(text)


LOOK_ELSEWHERE = (
    "[[rules]]\nname = 'elsewhere'\ndecision = 'ask'\neffect = 'write'\n"
    "when = 'facts.paths.exists(path, !path.inside)'\nreason = 'Not here.'\n"
)


# -- outside the roots ------------------------------------------------------------------------------------


def test_a_write_outside_the_roots_is_asked_and_where_nobody_is_there_refused(elsewhere):
    (call,) = made(write(elsewhere / "x"))
    assert (call.outcome, call.decision.by) == ("rejected", "nobody")
    assert call.decision.rule == "builtin:outside-the-roots"
    assert f"{elsewhere / 'x'} is outside the allowed roots" in call.reason
    assert "nobody is there to answer" in call.reason
    assert not os.listdir(elsewhere)


def test_a_yes_opens_that_one_path_for_that_one_call(elsewhere):
    person = Person()
    first, again, other = made(
        write(elsewhere / "new" / "x"),
        write(elsewhere / "new" / "x", "2"),
        write(elsewhere / "y"),
        person=person,
    )
    assert [first.outcome, again.outcome, other.outcome] == ["succeeded"] * 3
    assert (elsewhere / "new" / "x").read_text() == "2"
    assert len(person.questions) == 3
    assert not any(question.standing_allowed for question in person.questions)
    assert f"{elsewhere / 'y'} is outside" in person.questions[2].reason


def test_every_path_of_a_call_is_named_and_one_that_is_not_is_not_opened(elsewhere, work):
    for name in "ab":
        (elsewhere / name).write_text(name)
    person = Person()
    paths = [os.fspath(elsewhere / name) for name in "ab"]
    (call,) = made(("file_delete", {"paths": paths}), person=person)
    assert call.outcome == "succeeded" and not os.listdir(elsewhere)
    assert all(f"{path} is outside" in person.questions[0].reason for path in paths)


def test_a_question_names_the_very_path_that_a_yes_opens(elsewhere, work, monkeypatch):
    monkeypatch.setenv("HOME", os.fspath(elsewhere))
    (work / "data").write_text("old")
    (work / ".env").symlink_to("data")
    person = Person(no)
    made(write("~/x"), write(f"{work}/../elsewhere/y"), write(".env"), person=person)
    opened = (elsewhere / "x", elsewhere / "y", work / "data")
    for question, path in zip(person.questions, opened, strict=True):
        assert f"leads to {path}" in question.reason


def test_a_secret_in_a_path_is_not_shown_to_whoever_is_asked(elsewhere, monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", secret := "q8Zr4Vn2Lx7Tb5Kc9Wd3")
    person = Person(no)
    made(write(elsewhere / secret), person=person)
    (question,) = person.questions
    assert secret not in question.reason + question.summary + str(question.shown)


def test_a_no_opens_nothing(elsewhere):
    (call,) = made(write(elsewhere / "x"), person=Person(no))
    assert (call.outcome, call.decision.by) == ("rejected", "person")
    assert not os.listdir(elsewhere)


def test_a_yes_is_to_the_place_the_path_led_to_when_it_was_asked(elsewhere, work):
    (elsewhere / "shown").write_text("old")
    (elsewhere / "other").write_text("old")
    (work / "link").symlink_to(elsewhere / "shown")

    def turn():
        (work / "link").unlink()
        (work / "link").symlink_to(elsewhere / "other")

    (call,) = made(write("link"), person=Person(before=turn))
    assert (call.outcome, call.decision.by) == ("rejected", "nobody")
    assert "has changed meanwhile" in call.reason
    assert (elsewhere / "shown").read_text() == (elsewhere / "other").read_text() == "old"


def test_a_yes_to_what_has_no_digest_is_to_that_place_as_well(elsewhere, work):
    """What comes on standard input cannot be told, so there is no digest that would be another now."""
    (work / "link").symlink_to(elsewhere / "shown")

    def turn():
        (work / "link").unlink()
        (work / "link").symlink_to(elsewhere / "other")

    reading, writing = os.pipe()
    try:
        (call,) = made(write("link"), person=Person(before=turn), io=ProcessIO(stdin_fd=reading))
    finally:
        os.close(reading)
        os.close(writing)
    assert (call.outcome, call.decision.by) == ("rejected", "nobody")
    assert "has changed meanwhile" in call.reason
    assert not os.listdir(elsewhere)


def test_what_a_yes_did_not_open_is_refused_where_the_path_leads_there_in_the_last_moment(elsewhere, work):
    """Decided, answered, recorded as started; and only then the folder is another."""
    (elsewhere / "folder").mkdir()
    (elsewhere / "other").mkdir()

    class Late(FileWrite):
        name = "late_write"

        async def execute(self, arguments, context):
            (elsewhere / "folder").rmdir()
            (elsewhere / "folder").symlink_to(elsewhere / "other")
            return await super().execute(arguments, context)

    async def main():
        async with await open_runtime(load_settings(store=":memory:"), tools=[Late()]) as runtime:
            runtime.prompt = Person()
            return await runtime.call("late_write", write(elsewhere / "folder" / "x")[1])

    call = asyncio.run(main())
    assert (call.outcome, call.error["type"]) == ("failed", "PathRefused")
    assert not os.listdir(elsewhere / "other")


def test_a_yes_that_comes_late_opens_the_path_for_the_same_call(elsewhere, tmp_path):
    users_rules("[approvals]\nwait_seconds = 0.05\n")

    async def main():
        settings = load_settings(store=os.fspath(tmp_path / "store"))
        async with await open_runtime(settings) as runtime:

            async def silent(question):
                await asyncio.Event().wait()

            runtime.prompt = silent
            first = await runtime.call(*write(elsewhere / ".env"))
            means = Means(journal=runtime.journal, recorder=runtime.ledger.recorder, index=runtime.index)
            await asyncio.to_thread(answer_question, means, first.id, "allow", person="kim")
            return (
                first,
                await runtime.call(*write(elsewhere / ".env", "else")),
                await runtime.call(*write(elsewhere / ".env")),
            )

    first, other, same = asyncio.run(main())
    assert (first.outcome, other.outcome, same.outcome) == ("rejected", "rejected", "succeeded")
    assert (elsewhere / ".env").read_text() == "new"


def test_reading_outside_the_roots_is_refused_and_not_asked(elsewhere):
    (elsewhere / "x").write_text("old")
    person = Person()
    (call,) = made(("file_read", {"path": os.fspath(elsewhere / "x")}), person=person)
    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert not person.questions


def test_what_a_person_types_is_not_asked_about(elsewhere, work):
    person = Person()
    outside, protected, sent = made(
        write(elsewhere / "x"), write(".env"), ("send", {"text": "x"}), person=person, door="cli"
    )
    assert (outside.outcome, outside.decision.by) == ("rejected", "path")
    assert (protected.outcome, protected.decision.by) == ("rejected", "path")
    assert sent.outcome == "succeeded"
    assert not person.questions


# -- protected files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", ["", "default = 'allow'\n"], ids=["no file", "a user's file"])
def test_a_write_to_a_protected_file_is_asked_one_call_at_a_time(work, users):
    users_rules(users)
    person = Person()
    (call,) = made(write(".env"), person=person)
    assert call.outcome == "succeeded" and (work / ".env").read_text() == "new"
    assert "is protected" in person.questions[0].reason
    assert not person.questions[0].standing_allowed


def test_what_belongs_to_custody_is_never_asked_about(tmp_path):
    store, person = tmp_path / "store", Person()
    (call,) = made(write(store / "x"), person=person, store=os.fspath(store))
    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert not person.questions


def test_what_belongs_to_custody_is_never_asked_about_under_another_name(work):
    users_rules("default = 'allow'\n")
    policy = os.path.join(os.path.dirname(user_settings_path()), "policy.toml")
    os.link(policy, work / ".env")
    person = Person()
    (call,) = made(("file_write", {"path": ".env", "content": "#", "append": True}), person=person)
    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert not person.questions


def test_a_projects_policy_is_protected(work):
    rules = project_rules(work, "[[rules]]\nname = 'a'\ndecision = 'deny'\ntool = 'send'\n")
    (call,) = made(("file_delete", {"path": os.fspath(rules)}))
    assert (call.outcome, call.decision.rule) == ("rejected", "builtin:protected")
    (call,) = made(("file_delete", {"path": ".custody", "recursive": True}))
    assert (call.outcome, call.error["type"]) == ("failed", "PathRefused")
    assert rules.exists()


def test_what_a_person_let_be_written_is_taken_back_by_a_person_alone(work, tmp_path):
    (work / ".env").write_text("old")
    store = os.fspath(tmp_path / "store")
    (written,) = made(write(".env"), person=Person(), store=store)
    taken_back = ("undo", {"call": written.id})
    (refused,) = made(taken_back, person=Person(), store=store)
    assert (refused.outcome, refused.error["type"]) == ("failed", "PathRefused")
    assert "is protected" in refused.error["message"]
    assert (work / ".env").read_text() == "new"
    (undone,) = made(taken_back, door="cli", store=store)
    assert undone.outcome == "succeeded"
    (again,) = made(("undo", {"call": undone.id}), person=Person(), store=store)
    assert again.outcome == "failed" and (work / ".env").read_text() == "old"


# -- what cannot be taken back ----------------------------------------------------------------------------


def test_what_says_that_it_cannot_be_taken_back_is_asked_and_what_says_nothing_is_not():
    person = Person()
    sent, other = made(("send", {"text": "x"}), ("plain", {"text": "x"}), person=person)
    assert (sent.outcome, sent.decision.rule) == ("succeeded", "builtin:irreversible")
    assert (other.outcome, other.decision.rule) == ("succeeded", None)
    assert [question.tool for question in person.questions] == ["send"]


def test_while_the_policy_is_paused_it_asks_nothing_and_opens_nothing(elsewhere, tmp_path):
    def pause(runtime):
        begin_pause(
            runtime.ledger.recorder, runtime.index, seconds=60, reason="a test", person="kim", may_pause=True
        )

    person = Person()
    sent, outside = made(
        ("send", {"text": "x"}),
        write(elsewhere / "x"),
        person=person,
        act=pause,
        store=os.fspath(tmp_path / "store"),
    )
    assert sent.outcome == "succeeded"
    assert (outside.outcome, outside.decision.by) == ("rejected", "path")
    assert not person.questions


# -- beside files -----------------------------------------------------------------------------------------


def test_an_organisations_or_users_file_replaces_it_and_a_projects_alone_does_not(work):
    folder = os.fspath(work)
    assert layers_in_force(folder, user_settings_path()) == ()
    project_rules(work, "[[rules]]\nname = 'a'\ndecision = 'allow'\n")
    assert [layer.kind for layer in layers_in_force(folder, user_settings_path())] == ["project", "builtin"]
    for nothing in ("mode = 'shadow'\ndefault = 'allow'\n", "[budgets.run]\ncalls = 9\n"):
        users_rules(nothing)
        (sent,) = made(("send", {"text": "x"}))
        assert (sent.outcome, sent.decision.rule) == ("rejected", "builtin:irreversible")
    users_rules("default = 'allow'\n")
    assert [layer.kind for layer in layers_in_force(folder, user_settings_path())] == ["user", "project"]
    (sent,) = made(("send", {"text": "x"}))
    assert sent.outcome == "succeeded"


def test_under_a_users_file_a_path_outside_is_refused_unless_a_rule_asks(elsewhere):
    users_rules("default = 'allow'\n")
    person = Person()
    (call,) = made(write(elsewhere / "x"), person=person)
    assert (call.outcome, call.decision.by) == ("rejected", "path")
    assert not person.questions
    users_rules(LOOK_ELSEWHERE)
    (call,) = made(write(elsewhere / "x"), person=person)
    assert (call.outcome, call.decision.rule) == ("succeeded", "elsewhere")
    assert person.questions[0].reason.startswith("Not here. ")
    assert not person.questions[0].standing_allowed


def test_no_rule_opens_what_the_roots_close(elsewhere, work):
    path = project_rules(work, "[[rules]]\nname = 'all'\ndecision = 'allow'\n")
    (layer, _) = layers_in_force(os.fspath(work), user_settings_path())
    change_trusted(
        trust_path(user_settings_path()), lambda before: before.with_policy(os.fspath(path), layer.digest)
    )
    person = Person()
    sent, outside = made(("send", {"text": "x"}), write(elsewhere / "x"), person=person)
    assert sent.outcome == "succeeded"  # what is asked by default, a trusted project may allow
    assert [question.tool for question in person.questions] == ["file_write"]
    assert outside.outcome == "succeeded"


def test_a_rule_that_denies_comes_first(elsewhere):
    users_rules("[[rules]]\nname = 'none'\ndecision = 'deny'\ntool = 'file_write'\n")
    person = Person()
    (call,) = made(write(elsewhere / "x"), person=person)
    assert (call.outcome, call.decision.rule) == ("rejected", "none")
    assert not person.questions
