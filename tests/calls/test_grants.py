"""What a yes opens: exactly one call exactly like the one that was asked about, in time and in its session;
or as many as a grant says."""

import os
import threading
from collections import Counter

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.calls.desk import HOUR_US, Clock, Desk, digest_of

from custody.calls.grants import list_grants, revoke_grant
from custody.calls.question_digest import question_digest
from custody.calls.questions import Standing, answer_question, answer_to, open_questions
from custody.errors import Ambiguous, AnswerRefused, InvalidInput, NotFound
from custody.journal import MemoryDisk


@pytest.fixture
def desk():
    desk = Desk(MemoryDisk())
    yield desk
    desk.close()


def answered(desk, verdict="allow", what="rm x", **fields):
    """A question whose call has ended before somebody answered it."""
    question = desk.question(what)
    desk.end(question)
    desk.say(question, verdict, **fields)
    return question


# -- one yes ----------------------------------------------------------------------------------------------


def test_a_late_yes_lets_the_same_call_pass_once(desk):
    question = desk.question()
    assert desk.again() is None
    desk.end(question)
    assert desk.say(question, reason="fine by me").waiting is False
    found = desk.again()
    assert found.decision() == msgspec.structs.replace(
        found.decision(), verdict="allow", by="person", reason="fine by me", rule="ask-before-rm"
    )
    assert found.person == "kim" and found.call_id == question.call_id
    assert desk.again() == found  # finding it does not use it
    assert desk.use(found)
    assert not desk.use(found)
    assert desk.again() is None


def test_the_first_call_stays_rejected_by_nobody_although_somebody_answers_later(desk):
    question = answered(desk)
    call = desk.index.call(question.call_id.hex())
    assert (call.outcome, call.decision.verdict, call.decision.by) == ("rejected", "deny", "nobody")


@pytest.mark.parametrize("other", [{"what": "rm y"}, {"session": "t"}, {"session": None}])
def test_a_yes_is_for_exactly_this_in_its_session(desk, other):
    answered(desk)
    assert desk.again(**other) is None


def test_a_yes_of_a_call_without_session_is_for_calls_without_one(desk):
    question = desk.question(session=None)
    desk.end(question)
    desk.say(question)
    assert desk.again() is None
    assert desk.use(desk.again(session=None))


def test_a_no_lets_nothing_pass(desk):
    answered(desk, "deny")
    assert desk.again() is None


def test_while_a_call_waits_the_yes_is_its_own(desk):
    question = desk.question()
    desk.say(question)
    assert desk.again() is None
    its_own = answer_to(desk.means, question)
    assert not desk.use(its_own)
    assert desk.use(its_own, question.call_id)
    desk.start(question.call_id)
    desk.end(question)
    assert desk.again() is None


def test_a_yes_that_its_own_call_could_not_use_is_there_for_the_next(desk):
    """A budget, say, refused it after the answer."""
    question = desk.question()
    desk.say(question)
    desk.end(question, "the budget is used up")
    assert desk.use(desk.again())


def test_a_yes_is_over_when_its_question_is(desk):
    answered(desk)
    found = desk.again()
    desk.clock.ahead_us += 8 * HOUR_US
    assert desk.again() is None
    assert not desk.use(found)


def test_an_answer_whose_digest_was_changed_opens_nothing(desk):
    answered(desk)
    forged = msgspec.structs.replace(desk.again(), digest=digest_of("rm -rf /"))
    assert not desk.use(forged)


def test_a_table_that_was_meddled_with_opens_nothing(tmp_path):
    """The index says where to look; the records say what was allowed."""
    import apsw

    desk = Desk(tmp_path / "store")
    answered(desk)
    desk.index.close()
    connection = apsw.Connection(os.fspath(tmp_path / "store" / "index.db"))
    connection.execute("UPDATE questions SET digest = ?", (bytes.fromhex(digest_of("rm -rf /")),))
    connection.close()
    assert desk.again("rm -rf /") is None
    desk.index.rebuild()
    assert desk.use(desk.again())
    desk.close()


def test_of_eight_that_use_one_yes_exactly_one_does(tmp_path):
    desks = [Desk(tmp_path / "store") for _ in range(4)]
    answered(desks[0])
    begin, won = threading.Barrier(8), []

    def use(desk):
        found = desk.again()
        begin.wait(20)
        if desk.use(found):
            won.append(desk)

    threads = [threading.Thread(target=use, args=(desk,)) for desk in desks * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    for desk in desks:
        assert desk.again() is None
        desk.close()


# -- what cannot be answered --------------------------------------------------------------------------------


def refused(desk, question, why, **fields):
    before = len(desk.index.events(name="approval.refused").items)
    with pytest.raises(AnswerRefused) as caught:
        desk.say(question, **fields)
    assert caught.value.details["why"] == why and caught.value.exit_code == 3
    events = desk.index.events(name="approval.refused").items
    assert len(events) == before + 1
    assert {"why": why, "person": "kim"} in [event.data for event in events]
    return caught.value


def test_a_question_is_answered_once_and_the_second_is_told(desk):
    question = desk.question()
    desk.say(question, "deny", person="lee")
    assert "lee has said no" in refused(desk, question, "answered").message


def test_a_yes_that_was_used_is_not_answered_again(desk):
    question = answered(desk)
    assert desk.use(desk.again())
    refused(desk, question, "used")


def test_a_question_whose_time_is_over_is_not_answered(desk):
    question = desk.question(hours=1)
    desk.clock.ahead_us += HOUR_US
    refused(desk, question, "expired")
    assert open_questions(desk.index, desk.clock()) == []


def test_a_question_of_another_session_is_not_answered(desk):
    question = desk.question(session="theirs")
    refused(desk, question, "session", sessions={"ours"})
    desk.say(question, sessions={"ours", "theirs"})


def test_an_id_that_nobody_was_asked_about_is_not_found_and_that_is_recorded(desk):
    desk.question()
    for call in ("f" * 16, "f" * 17, "no id", "../x", ""):
        with pytest.raises(NotFound):
            answer_question(desk.means, call, "allow", person="kim")
        with pytest.raises(NotFound):
            revoke_grant(desk.means, call, person="kim")
    events = desk.index.events(name="approval.refused").items
    assert [event.data for event in events] == [{"why": "not_found", "person": "kim"}] * 5


def test_an_id_that_several_begin_with_is_ambiguous(desk):
    ids = [desk.question().call_id.hex() for _ in range(17)]
    twice = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    with pytest.raises(Ambiguous):
        answer_question(desk.means, twice, "allow", person="kim")
    assert len(open_questions(desk.index, desk.clock())) == 1


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [
        ("deny", {"standing": Standing()}),
        ("allow", {"standing": Standing(hours=0)}),
        ("allow", {"standing": Standing(hours=float("nan"))}),
        ("allow", {"standing": Standing(hours=1e9)}),
        ("allow", {"standing": Standing(calls_max=0)}),
        ("allow", {"standing": Standing(calls_max=10**6)}),
        ("allow", {"reason": "x" * 2_000}),
    ],
    ids=["no", "no time", "no number", "for ever", "no calls", "too many calls", "a long reason"],
)
def test_an_answer_that_makes_no_sense_changes_nothing(desk, verdict, fields):
    question = desk.question()
    with pytest.raises(InvalidInput):
        desk.say(question, verdict, **fields)
    assert [one.call_id for one in open_questions(desk.index, desk.clock())] == [question.call_id.hex()]


# -- what is listed -----------------------------------------------------------------------------------------


def test_an_open_question_says_what_is_asked_and_who_waits(desk):
    question = desk.question()
    (shown,) = open_questions(desk.index, desk.clock())
    assert (shown.call_id, shown.tool, shown.agent, shown.session_id) == (
        question.call_id.hex(), "shell", "ada", "s",
    )  # fmt: skip
    assert (shown.rule, shown.reason, shown.waiting, shown.asked_times) == (
        "ask-before-rm", "it removes files", True, 1,
    )  # fmt: skip
    assert (shown.arguments, shown.cwd) == ({"line": "rm x"}, "/w")


def test_what_is_asked_again_and_again_is_listed_once_and_one_answer_settles_it(desk):
    first, second = desk.question(), desk.question()
    desk.end(first)
    (shown,) = open_questions(desk.index, desk.clock())
    assert (shown.call_id, shown.asked_times) == (second.call_id.hex(), 2)
    desk.end(second)
    desk.say(first)
    assert open_questions(desk.index, desk.clock()) == []
    refused(desk, second, "answered")
    assert desk.use(desk.again()) and desk.again() is None


def test_a_no_to_one_is_a_no_to_those_that_ask_the_same_until_then(desk):
    first, second = desk.question(), desk.question()
    desk.say(first, "deny")
    assert open_questions(desk.index, desk.clock()) == []
    refused(desk, second, "answered")
    desk.question()
    assert len(open_questions(desk.index, desk.clock())) == 1


# -- grants -------------------------------------------------------------------------------------------------


def test_a_grant_lets_so_many_more_pass_and_is_listed(desk):
    question = answered(desk, standing=Standing(hours=2, calls_max=2))
    assert [desk.use(desk.again()) for _ in range(4)] == [True, True, True, False]  # the yes, and two
    assert list_grants(desk.index, desk.clock()) == []
    (grant,) = list_grants(desk.index, desk.clock(), every=True)
    assert (grant.call_id, grant.by, grant.calls_used, grant.good) == (
        question.call_id.hex(),
        "kim",
        2,
        False,
    )


def test_a_grant_ends_with_its_time_and_with_being_revoked(desk):
    answered(desk, standing=Standing(hours=2))
    kept = answered(desk, what="ls", standing=Standing(hours=4))
    assert desk.use(desk.again()) and desk.use(desk.again("ls"))
    granted = desk.again("ls")
    assert granted.granted
    desk.clock.ahead_us += 3 * HOUR_US
    assert desk.again() is None and desk.again("ls") == granted
    assert revoke_grant(desk.means, kept.call_id.hex(), person="lee").revoked_by == "lee"
    assert desk.again("ls") is None and not desk.use(granted)
    with pytest.raises(AnswerRefused, match="lee has revoked"):
        revoke_grant(desk.means, kept.call_id.hex(), person="kim")


def test_a_grant_is_for_exactly_this_in_its_session(desk):
    answered(desk, standing=Standing())
    assert desk.use(desk.again())
    assert desk.again(session="t") is None and desk.again("rm y") is None
    assert desk.use(desk.again())


def test_what_is_asked_each_time_gets_no_grant(desk):
    question = desk.question(standing=False)
    refused(desk, question, "standing", standing=Standing())
    assert desk.say(question).grant is False


def test_a_grant_that_nobody_gave_is_none(desk):
    """The event alone opens nothing where the question does not allow it, or is about something else."""
    question = desk.question(standing=False)
    other = desk.question("ls")
    for one, digest in ((question, question.digest), (other, digest_of("rm -rf /"))):
        data = {"digest": digest, "tool": "shell", "until_us": desk.clock() + HOUR_US, "max": 9,
                "session_id": "s"}  # fmt: skip
        desk.recorder.event("grant.created", data, leaf_data=True, call_id=one.call_id)
    desk.recorder.event("grant.created", {"max": "many"}, leaf_data=True, call_id=other.call_id)
    assert list_grants(desk.index, desk.clock(), every=True) == []
    assert desk.again() is None and desk.again("rm -rf /") is None


# -- the digest ---------------------------------------------------------------------------------------------

ASKED = {"tool": "t", "arguments": {"a": 1}, "cwd": "/w", "agent": "ada", "policy_digest": "p"}


def digest(key=b"k", **changes):
    return question_digest(key, **{**ASKED, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"tool": "u"}, {"cwd": "/v"}, {"cwd": None}, {"agent": None}, {"policy_digest": "q"}, {"key": b"l"},
        {"arguments": {"a": 1.0}}, {"arguments": {"a": "1"}}, {"arguments": {"a": True}},
        {"arguments": {"a": b"1"}}, {"arguments": {"a": None}}, {"arguments": {"a": float("nan")}},
        {"arguments": {}}, {"arguments": {"a": 1, "b": None}}, {"arguments": {"a": [1]}},
        {"arguments": {"a": {"1"}}}, {"arguments": {1: "a"}}, {"arguments": {"a": ["i", "1"]}},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_differs_has_another_digest(change):
    assert digest(**change) != digest()
    assert digest(**change) == digest(**change)


def test_the_order_of_names_is_no_difference():
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert digest(arguments=one) == digest(arguments=two)


def test_what_cannot_be_spelled_is_like_nothing_else():
    class Own:
        pass

    deep = []
    for _ in range(5_000):
        deep = [deep]
    for value in (Own(), deep):
        assert digest(arguments={"a": value}) != digest(arguments={"a": value})
    assert digest(arguments={"path": "\udcff"}) == digest(arguments={"path": "\udcff"})


# -- any order ----------------------------------------------------------------------------------------------


class Answers(RuleBasedStateMachine):
    """Whatever is asked, answered, repeated, used and left to expire: no yes lets more than one call pass,
    and none passes without."""

    WHAT = st.sampled_from(["rm x", "rm x", "rm y"])
    SESSIONS = st.sampled_from(["s", "s", "s", "t"])

    @initialize()
    def open(self):
        disk = MemoryDisk()
        clock = Clock()
        self.desks = [Desk(disk, clock), Desk(disk, clock)]
        self.clock = clock
        self.asked = []
        self.ended = set()
        self.said = set()
        self.allowed = Counter()
        self.passed = Counter()
        self.held = []

    @rule(what=WHAT, session=SESSIONS, desk=st.integers(0, 1))
    def ask(self, what, session, desk):
        self.asked.append(self.desks[desk].question(what, session))

    @rule(number=st.integers(0, 9), desk=st.integers(0, 1))
    def end(self, number, desk):
        running = [one for one in self.asked if one.call_id not in self.ended]
        if running:
            question = running[number % len(running)]
            self.ended.add(question.call_id)
            self.desks[desk].end(question)

    @rule(number=st.integers(0, 9), desk=st.integers(0, 1), verdict=st.sampled_from(["allow", "deny"]))
    def answer(self, number, desk, verdict):
        if self.asked:
            question = self.asked[number % len(self.asked)]
            try:
                self.desks[desk].say(question, verdict)
            except AnswerRefused:
                return
            assert question.call_id not in self.said, "answered twice"
            assert self.clock() < question.open_until_us
            self.said.add(question.call_id)
            if verdict == "allow":
                self.allowed[question.digest, question.session_id] += 1

    @rule(number=st.integers(0, 9), desk=st.integers(0, 1))
    def repeat(self, number, desk):
        if self.asked:
            question = self.asked[number % len(self.asked)]
            found = self.desks[desk].again(question.summary, question.session_id)
            if found is not None:
                other = next(one for one in self.asked if one.call_id == found.call_id)
                assert (other.digest, other.session_id) == (question.digest, question.session_id)
                assert found.verdict == "allow" and self.clock() < other.open_until_us
                self.held.append((found, other))

    @rule(number=st.integers(0, 9), desk=st.integers(0, 1))
    def use(self, number, desk):
        if self.held:
            found, other = self.held[number % len(self.held)]
            if self.desks[desk].use(found):
                assert self.clock() < other.open_until_us
                self.pass_one(other)

    @rule(number=st.integers(0, 9), desk=st.integers(0, 1))
    def wait_and_go_on(self, number, desk):
        """The call that was asked about still waits."""
        waiting = [one for one in self.asked if one.call_id not in self.ended]
        if waiting:
            question = waiting[number % len(waiting)]
            found = answer_to(self.desks[desk].means, question)
            if found is not None and self.desks[desk].use(found, question.call_id):
                self.pass_one(question)

    def pass_one(self, question):
        self.passed[question.digest, question.session_id] += 1
        assert self.passed <= self.allowed, "more calls passed than a person said yes to"

    @rule(what=WHAT, session=SESSIONS)
    def answer_late(self, what, session):
        self.ask(what, session, 0)
        self.ended.add(self.asked[-1].call_id)
        self.desks[0].end(self.asked[-1])
        self.answer(len(self.asked) - 1, 1, "allow")
        self.repeat(len(self.asked) - 1, 0)

    @rule(hours=st.sampled_from([3, 8]))
    def wait(self, hours):
        self.clock.ahead_us += hours * HOUR_US

    @invariant()
    def what_is_listed_can_be_answered(self):
        if self.asked:
            listed = open_questions(self.desks[0].index, self.clock())
            assert not {one.call_id for one in listed} & {call.hex() for call in self.said}

    def teardown(self):
        for desk in getattr(self, "desks", ()):
            desk.close()


Answers.TestCase.settings = settings(max_examples=4, stateful_step_count=20)
TestAnyOrderOfAskingAndAnswering = Answers.TestCase


@pytest.mark.long
class TestAnyOrderAtLength(Answers.TestCase):
    settings = settings(max_examples=30, stateful_step_count=30)
