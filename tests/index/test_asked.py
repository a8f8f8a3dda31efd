"""What people are asked: the same from any order of shards and batches, and from a rebuild."""

import pytest
from tests.index.conftest import BEGIN_US, Store, call_id, request, us

from custody.errors import NotFound
from custody.records import CallAnswered, CallAsked, CallFinished, Decision, Event, RunStarted

ASK = Decision("ask", "rule", "it removes files", "ask-before-rm")
YES, NO = Decision("allow", "person", "fine"), Decision("deny", "person", "no")
DIGEST = b"\x07" * 32
NOW, END = us(100), us(1_000)


def asked(number, at=1.0, digest=DIGEST, **fields):
    return CallAsked(
        call_id(number), request(at, decision=ASK, **fields), b"",
        digest=digest, open_until_us=END, standing=True,
    )  # fmt: skip


def event(number, name, of, at=5.0, **data):
    return Event(call_id(number), name, us(at), b"", call_id=call_id(of), data=data)


GRANT = {"digest": DIGEST.hex(), "tool": "exec", "until_us": END, "max": 2, "session_id": "s", "by": "kim"}
HISTORY = [
    RunStarted(b"\xa1" * 16, us(0), b"", "ada", session_id="s"),
    # 1: in a run, which says whose it is; allowed late, used twice by what a torn write put there again.
    asked(1, run=1),
    CallFinished(call_id(1), us(3), "rejected", b"", decision=Decision("deny", "nobody", "waiting")),
    CallAnswered(call_id(1), us(4), YES, b"", "kim"),
    event(90, "answer.used", 1, of_call=call_id(1).hex(), by_call=call_id(8).hex()),
    # 2: granted, used by one call that is told of twice, revoked.
    asked(2, session_id="s"),
    CallAnswered(call_id(2), us(2), YES, b"", "kim"),
    event(91, "grant.created", 2, 2, **GRANT),
    event(92, "grant.used", 2, 6, by_call=call_id(9).hex()),
    event(93, "grant.used", 2, 7, by_call=call_id(9).hex()),
    event(94, "grant.revoked", 2, 8, by="lee"),
    # 3: open. 4: its digest is not kept. 5: answered with a no.
    asked(3, 3.0, session_id="t"),
    CallAsked(call_id(4), request(4.0, decision=ASK), b""),
    asked(5, 5.0, b"\x08" * 32),
    CallAnswered(call_id(5), us(6), NO, b"", "kim"),
]


def told(index):
    questions = index.questions
    return {
        "open": [view.call_id for view in questions.not_answered(NOW)],
        "answered": [
            view for session in ("s", "t", None) for view in questions.answered(DIGEST, session, NOW)
        ],
        "granted": questions.granted(DIGEST, "s", NOW),
        "grants": questions.grants(),
        "each": [questions.one(call_id(number).hex()) for number in (1, 2, 3, 5)],
    }


def test_questions_say_what_became_of_them(store):
    for record in HISTORY:
        store.put(record, {"arguments": {"line": "rm"}} if isinstance(record, CallAsked) else {})
    index = store.index()
    first, second, third, fifth = told(index)["each"]
    assert (first.agent, first.session_id, first.allowed, first.used_by) == ("ada", "s", True, call_id(8))
    assert not first.is_good(NOW) and not first.in_time(END) and not first.in_time(BEGIN_US)
    assert (second.grant.used_by, second.grant.revoked_by) == ((call_id(9),), "lee")
    assert second.is_good(NOW) and not second.is_good(END)
    assert not second.grant.is_good(NOW)
    assert third.answer is None and fifth.answer.decision == NO
    assert told(index)["open"] == [call_id(3)]
    assert index.questions.shown(call_id(3)) == {"arguments": {"line": "rm"}}
    assert index.call("0001").decision == Decision("deny", "nobody", "waiting")
    with pytest.raises(NotFound):
        index.questions.one("0004")


def test_any_order_of_shards_and_batches_gives_the_same_questions(new_store):
    expected = None
    for turn, shards in ((0, 1), (4, 3), (8, 3)):
        store: Store = new_store()
        writers = [store.writer, store.open_writer(), store.open_writer()]
        index = store.index()
        order = HISTORY[turn:] + HISTORY[:turn]
        for count, record in enumerate(order if turn % 8 else order[::-1]):
            store.put(record, {}, writers[count % shards])
            if count % 5 == turn % 5:
                index.refresh()
        caught_up = told(index)
        index.rebuild()
        assert told(index) == caught_up
        expected = expected or caught_up
        assert caught_up == expected


def test_the_same_question_put_twice_is_one(new_store):
    store = new_store()
    for _ in range(2):
        for record in HISTORY:
            store.put(record, {})
    once = new_store()
    for record in HISTORY:
        once.put(record, {})
    assert told(store.index()) == told(once.index())


def test_a_question_with_times_that_are_none_is_not_kept(store):
    for number, until in enumerate((2**62, -1, 2**63 - 1), 1):
        leaf = CallAsked(call_id(number), request(1.0, decision=ASK), b"", digest=DIGEST, open_until_us=until)
        store.put(leaf, {})
    assert store.index().questions.not_answered(NOW) == []
