"""A commit that somebody else wants: a person answers it from what they see, and to nothing else."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.calls.desk import Desk
from tests.cli.conftest import Program, eventually
from tests.cli.test_afterwards import answering
from tests.sandbox.places import machine_of
from tests.tools.holding import Rearrange
from tests.tools.test_held_bound import forge

import custody as package
from custody.calls.questions import answer_question
from custody.records import now_us

ACTS = {
    "text": lambda root: (root / "text").write_text("one\ntwo and a half\n\x1b[31mthree\n"),
}


@pytest.fixture
def folder(custody: Program):
    (custody.work / "text").write_text("one\ntwo\n")
    return custody.work


def opened(custody: Program):
    return package.open(custody.store, tools=[Rearrange(ACTS)], cwd=os.fspath(custody.work))


def held(custody: Program):
    with opened(custody) as runtime:
        return runtime.call("rearrange", {"act": "text"})


def test_who_answers_elsewhere_sees_the_difference_in_every_place_where_the_question_is(custody, folder):
    held(custody)  # makes the store
    desk = Desk(os.fspath(custody.store))
    listening = desk.journal.approver_lock()
    with opened(custody) as runtime, ThreadPoolExecutor() as pool:
        call = runtime.call("rearrange", {"act": "text"})
        commit = pool.submit(runtime.call, "commit", {"call": call.id})
        questions = eventually(lambda: runtime.index.questions.not_answered(now_us()))
        asked = questions[0].call_id.hex()

        (listed,) = custody("approvals", "--json").json["items"]
        shown = custody("approvals", "show", asked[:8])
        assert "-two\n+two and a half\n+\\x1b[31mthree\n" in listed["difference"]
        assert "  | -two\n  | +two and a half\n  | +\\x1b[31mthree\n" in shown.out
        assert custody("approvals", "show", asked, "--json").json["difference"] == listed["difference"]

        answer_question(desk.means, asked, "allow", person="kim")
        assert commit.result(60).outcome == "succeeded"
    assert (folder / "text").read_text().startswith("one\ntwo and a half\n")
    listening.release()
    desk.close()


@pytest.mark.long
def test_at_a_terminal_the_question_after_a_command_shows_the_difference(custody, folder):
    missing = "; ".join(finding.why for finding in machine_of(os.getuid()).missing)
    if missing:
        pytest.skip(f"`transaction` is not offered here: {missing}")
    line = ("exec", "--afterwards", "ask", "--", "sh", "-c", "echo three >> text; rm -f no; mkdir made")
    code, shown = answering(custody, line, "y")
    assert code == 0
    assert "| +three" in shown and "| (made: folder, created)" in shown
    assert (folder / "text").read_text() == "one\ntwo\nthree\n"


def test_what_somebody_wrote_into_the_store_is_neither_shown_nor_committed_and_a_person_drops_it(
    custody, folder
):
    call = held(custody)

    class Stored:
        store = custody.store

    forge(Stored, call)
    said = "is not what its record says"
    assert said in custody("show", call.id).err
    diff, commit = custody("show", call.id, "--diff"), custody("commit", call.id)
    assert (diff.code, commit.code) == (1, 1)
    assert said in diff.err and said in commit.err
    assert (folder / "text").read_text() == "one\ntwo\n"
    dropped = custody("discard", call.id)
    assert dropped.code == 0 and said in dropped.err
    assert custody("show", call.id, "--json").json["held"] == "discarded"


def test_content_that_was_swapped_in_the_store_is_not_shown_as_if_it_were_held(custody, folder):
    call = held(custody)
    (content,) = (custody.store / "undo" / "held" / call.id).rglob("text")
    content.write_bytes(b"x" * content.stat().st_size)
    ran = custody("show", call.id, "--diff")
    assert "xxx" not in ran.out and "it is not held any more" in ran.out


def test_what_is_held_and_gone_from_the_store_is_said(custody, folder):
    call = held(custody)
    shutil.rmtree(custody.store / "undo" / "held" / call.id)
    assert "not held any more, and the record does not say why" in custody("show", call.id).err


def test_what_is_not_bound_to_the_record_is_said(custody, folder, monkeypatch):
    execute = Rearrange.execute

    async def without_digest(self, arguments, context):
        return msgspec.structs.replace(await execute(self, arguments, context), held_digest=None)

    monkeypatch.setattr(Rearrange, "execute", without_digest)
    call = held(custody)
    assert "not bound to the record" in custody("show", call.id).err
    ran = custody("commit", call.id)
    assert ran.code == 0 and "not bound to the record" in ran.err
