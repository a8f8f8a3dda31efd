"""A call that is asked about waits for a person: at the door or in any process, for so long, with so many."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from tests.calls.desk import Desk

from custody.calls.answers import POLL_SECONDS, Answering, no, yes
from custody.calls.questions import Standing, open_questions
from custody.calls.recovery import recover
from custody.errors import AnswerRefused, NotRecorded, StoreClosed
from custody.journal import MemoryDisk, boot_id
from custody.verify import Wanted, verify_store

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 30.0
"""No wait for what does come may end by this bound."""


@pytest.fixture
def desks(monkeypatch):
    """A runtime and a person's terminal, each with a writer of its own."""
    monkeypatch.setattr("custody.calls.answers.POLL_SECONDS", 0.01)
    disk = MemoryDisk()
    desks = Desk(disk), Desk(disk)
    yield desks
    for desk in desks:
        desk.close()


def waiting_for(desk, act, prompt=None, question=None, someone=True, **options):
    """What `ask` gives while `act(question)` is done beside it."""

    async def main():
        answering = desk.answering(someone, **options)
        asked = question or desk.question()
        try:
            wait = asyncio.ensure_future(answering.ask(asked, prompt))
            await asyncio.sleep(0)
            if act is not None:
                await asyncio.to_thread(act, asked)
            return await asyncio.wait_for(wait, HANG_SECONDS)
        finally:
            answering.close()

    return asyncio.run(main())


# -- who answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["allow", "deny"])
def test_an_answer_from_elsewhere_reaches_the_call_that_waits(desks, verdict):
    runtime, terminal = desks
    said = waiting_for(runtime, lambda question: terminal.say(question, verdict, reason="I looked"))
    assert (said.verdict, said.by, said.person, said.reason) == (verdict, "person", "kim", "I looked")
    assert said.rule == "ask-before-rm"


def test_a_yes_to_a_call_that_waits_is_used_by_it_alone(desks):
    runtime, terminal = desks
    question = runtime.question()
    said = waiting_for(runtime, terminal.say, question=question)
    assert terminal.again() is None

    async def consume():
        answering = runtime.answering()
        used = [await answering.consume(said, question.call_id) for _ in range(2)]
        found = await answering.passed_before(question.digest, "s")
        answering.close()
        return used, found

    assert asyncio.run(consume()) == ([True, False], None)
    (event,) = terminal.index.events(name="answer.used").items
    assert event.data == {"of_call": question.call_id.hex(), "by_call": question.call_id.hex()}


def test_nobody_there_is_a_no_at_once_and_so_is_not_knowing(desks):
    def cannot_tell():
        raise OSError

    runtime, _ = desks
    said = waiting_for(runtime, None, someone=False)
    assert (said.verdict, said.by, said.open_until_us) == ("deny", "nobody", None)
    assert "nobody is there" in said.reason

    async def main():
        answering = runtime.answering()
        answering._someone = cannot_tell
        return await answering.ask(runtime.question())

    assert asyncio.run(main()).by == "nobody"


@pytest.mark.parametrize("answer", [yes, no])
def test_a_prompt_of_the_door_answers_and_that_is_on_the_record(desks, answer):
    async def prompt(question):
        return answer(question, "ada", "as I see it")

    runtime, terminal = desks
    question = runtime.question()
    said = waiting_for(runtime, None, prompt, question, someone=False)
    assert (said.by, said.person, said.reason) == ("person", "ada", "as I see it")
    assert said.verdict == ("allow" if answer is yes else "deny")
    assert terminal.index.questions.one(question.call_id.hex()).answer.person == "ada"


def test_a_prompt_can_allow_exactly_this_for_longer(desks):
    async def always(question):
        return msgspec.structs.replace(yes(question, "ada"), standing=Standing(calls_max=1))

    runtime, terminal = desks
    question = runtime.question()
    said = waiting_for(runtime, None, always, question)
    assert terminal.use(said, question.call_id) and terminal.use(terminal.again())
    assert terminal.again() is None


def test_of_a_prompt_and_another_process_the_first_counts(desks):
    runtime, terminal = desks
    question = runtime.question()

    async def prompt(question):
        await asyncio.to_thread(terminal.say, question, "deny", person="lee")
        return yes(question, "ada")

    said = waiting_for(runtime, None, prompt, question)
    assert (said.verdict, said.person) == ("deny", "lee")


def test_a_prompt_is_taken_away_when_somebody_else_answers(desks):
    taken_away = []

    async def prompt(question):
        try:
            await asyncio.Event().wait()
        finally:
            taken_away.append(question.call_id)

    runtime, terminal = desks
    said = waiting_for(runtime, terminal.say, prompt)
    assert said.verdict == "allow" and taken_away == [said.call_id]


@pytest.mark.parametrize("how", ["goes away", "fails"])
def test_a_prompt_that_comes_to_nothing_leaves_the_answer_to_others(desks, how):
    async def prompt(question):
        if how == "fails":
            raise RuntimeError("no terminal")

    runtime, terminal = desks
    assert waiting_for(runtime, terminal.say, prompt).verdict == "allow"


def test_an_answer_that_cannot_be_recorded_is_a_no(desks, monkeypatch):
    async def prompt(question):
        return yes(question, "ada")

    def full(*_):
        raise NotRecorded("The disk is full.")

    runtime, _ = desks
    question = runtime.question()
    monkeypatch.setattr(runtime.recorder, "append_all", full)
    said = waiting_for(runtime, None, prompt, question)
    assert (said.verdict, said.by) == ("deny", "error") and "The disk is full" in said.reason


# -- how long, how many -----------------------------------------------------------------------------------


def test_when_the_wait_is_over_the_question_stays_open_and_the_same_call_passes_once_after_a_yes(desks):
    runtime, terminal = desks
    question = runtime.question()
    said = waiting_for(runtime, None, question=question, wait_seconds=0.01)
    assert (said.verdict, said.by) == ("deny", "nobody")
    assert f"waiting for a person, call {question.call_id.hex()[:8]}; repeat the same call" in said.reason
    assert said.open_until_us == question.open_until_us
    runtime.end(question, said.reason)
    assert [one.waiting for one in open_questions(terminal.index, terminal.clock())] == [False]
    terminal.say(question)
    assert runtime.use(runtime.again()) and runtime.again() is None


def test_more_than_so_many_do_not_wait(desks):
    runtime, terminal = desks

    async def main():
        answering = runtime.answering(parked_max=2)
        questions = [runtime.question(f"rm {number}") for number in range(3)]
        waits = [asyncio.ensure_future(answering.ask(question)) for question in questions]
        refused = await asyncio.wait_for(waits[2], HANG_SECONDS)
        for question in questions[:2]:
            await asyncio.to_thread(terminal.say, question)
        others = await asyncio.gather(*waits[:2])
        answering.close()
        return refused, others

    refused, others = asyncio.run(main())
    assert refused.by == "nobody" and "2 calls wait" in refused.reason
    assert [(said.verdict, said.by) for said in others] == [("allow", "person")] * 2


def test_a_wait_that_is_cancelled_leaves_the_question_open(desks):
    runtime, terminal = desks
    question = runtime.question()

    async def main():
        answering = runtime.answering(parked_max=1)
        wait = asyncio.ensure_future(answering.ask(question))
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert answering.refused_at_once(None) is None  # its place is free
        answering.close()
        with pytest.raises(StoreClosed):
            await answering.ask(question)

    asyncio.run(main())
    runtime.end(question)
    terminal.say(question)
    assert runtime.again().verdict == "allow"


def test_a_call_that_nobody_wants_any_more_does_not_wait(desks):
    runtime, terminal = desks
    stops = []

    async def main():
        answering = runtime.answering()
        question = runtime.question()
        wait = asyncio.ensure_future(answering.ask(question, on_cancel=stops.append))
        await asyncio.sleep(0)
        stops[0]()
        said = await asyncio.wait_for(wait, HANG_SECONDS)
        stops[0]()
        answering.close()
        return question, said

    question, said = asyncio.run(main())
    assert said.by == "nobody" and said.reason.startswith("cancelled while it waited")
    runtime.end(question)
    assert len(open_questions(terminal.index, terminal.clock())) == 1


def test_a_call_that_repeats_an_earlier_question_passes_on_the_answer_to_that(desks):
    """Whoever looks at the list may answer the one that came first."""
    runtime, terminal = desks
    first = runtime.question()
    runtime.end(first)
    second = runtime.question()
    said = waiting_for(runtime, lambda _: terminal.say(first), question=second)
    assert (said.verdict, said.person, said.call_id) == ("allow", "kim", second.call_id)
    assert terminal.index.questions.one(second.call_id.hex()).answer.person == "kim"
    assert runtime.again() is None
    assert runtime.use(said, second.call_id) and not runtime.use(said, second.call_id)
    runtime.end(second)
    assert runtime.again() is None


def test_what_waits_hears_a_no_to_the_same_and_has_it_on_its_record(desks):
    runtime, terminal = desks
    first, second = runtime.question(), runtime.question()
    said = waiting_for(runtime, lambda _: terminal.say(first, "deny"), question=second)
    assert (said.verdict, said.by, said.call_id) == ("deny", "person", second.call_id)
    assert terminal.index.call(second.call_id.hex()).decision.verdict == "deny"


def test_people_are_told_of_a_question_and_a_failure_to_do_so_changes_nothing(desks):
    told = []

    async def notify(question):
        told.append(question.summary)
        raise RuntimeError("no such command")

    runtime, terminal = desks
    assert waiting_for(runtime, terminal.say, notify=notify).verdict == "allow"
    assert told == ["rm x"]


def test_a_record_that_cannot_be_read_is_no_answer(desks, monkeypatch):
    def broken(*_, **__):
        raise OSError

    runtime, _ = desks
    question = runtime.question()
    monkeypatch.setattr(runtime.index.questions, "answered", broken)
    assert waiting_for(runtime, None, question=question, wait_seconds=0.01).by == "nobody"


# -- processes --------------------------------------------------------------------------------------------

APPROVER = """
import sys
from tests.calls.desk import Desk
from custody.calls.questions import answer_question, one_at_a_time
desk = Desk(sys.argv[1])
print("ready", flush=True)
what, call = input().split()
if what == "hold":
    with one_at_a_time(desk.journal):
        print("holding", flush=True)
        input()
answer_question(desk.means, call, "allow", person="kim")
print("answered", flush=True)
"""


@pytest.fixture
def approver(tmp_path):
    """A person in another process, who does what is printed to it."""
    with subprocess.Popen(
        [sys.executable, "-c", APPROVER, os.fspath(tmp_path / "store")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.fspath(ROOT),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def tell(approver, what, question):
    """Gives what it says to that."""
    print(what, question.call_id.hex(), file=approver.stdin, flush=True)
    return approver.stdout.readline().strip()


@pytest.fixture
def runtime(tmp_path):
    desk = Desk(tmp_path / "store")
    yield desk
    desk.close()


def test_an_answer_of_another_process_arrives_in_a_moment(runtime, approver, monkeypatch):
    """The looks are a moment apart, and whichever begins after the answer finds it."""
    answered, in_vain, looking = threading.Event(), [], Answering._answers_to

    def look(self, waiting):
        after = answered.is_set()
        found = looking(self, waiting)
        if after and waiting and not found:
            in_vain.append(waiting)
        return found

    def answer(question):
        assert tell(approver, "answer", question) == "answered"
        answered.set()

    monkeypatch.setattr(Answering, "_answers_to", look)
    said = waiting_for(runtime, answer, wait_seconds=10 * HANG_SECONDS)
    assert said.verdict == "allow"
    assert in_vain == []
    assert POLL_SECONDS <= 0.1


@pytest.mark.long
def test_an_approver_that_is_killed_in_between_is_in_nobodys_way(runtime, approver):
    def killed_and_then_answered(question):
        assert tell(approver, "hold", question) == "holding"
        approver.send_signal(signal.SIGKILL)
        approver.wait(20)
        runtime.say(question, person="lee")

    said = waiting_for(runtime, killed_and_then_answered)
    assert (said.verdict, said.person) == ("allow", "lee")


@pytest.mark.long
def test_whoever_cannot_have_the_lock_answers_nothing(runtime, approver, monkeypatch):
    monkeypatch.setattr("custody.calls.questions.LOCK_WAIT_SECONDS", 0.05)
    question = runtime.question()
    assert tell(approver, "hold", question) == "holding"
    with pytest.raises(NotRecorded):
        runtime.say(question)
    approver.kill()
    approver.wait(20)
    runtime.say(question)


def test_what_a_dead_process_asked_is_rejected_and_can_still_be_answered_for_the_next(desks):
    dead, terminal = Desk(desks[0].store), desks[1]
    question = dead.question()
    dead.close()
    closed = recover(terminal.journal, terminal.index, lambda: terminal.recorder, lambda: None, lambda: None)
    assert closed.calls_rejected == (question.call_id.hex(),)
    call = terminal.index.call(question.call_id.hex())
    assert (call.outcome, call.decision.verdict, call.decision.by) == ("rejected", "deny", "nobody")
    terminal.say(question)
    with pytest.raises(AnswerRefused):
        terminal.say(question)
    assert terminal.use(terminal.again())


def test_a_store_with_late_answers_is_as_it_should_be(tmp_path):
    """The record of an answer may follow that of the end, in the same shard or in another."""
    runtime, terminal = Desk(tmp_path / "store"), Desk(tmp_path / "store")
    for number, desk in enumerate((runtime, terminal, terminal)):
        question = runtime.question(f"rm {number}")
        runtime.end(question)
        if number == 2:
            runtime.index.refresh()
        desk.say(question, standing=Standing())
        assert runtime.use(runtime.again(f"rm {number}"))
    runtime.index.refresh()
    for desk in (runtime, terminal):
        desk.close()
    report = verify_store(
        runtime.disk, root=os.fspath(tmp_path / "store"), wanted=Wanted(), boot_id=boot_id()
    )
    assert report.index == "agrees"
    assert [fault.file for fault in report.faults] == ["checkpoints/log"]  # nothing is signed here
