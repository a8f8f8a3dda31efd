"""`@custody.observed` records each call of a function, and changes nothing else of it."""

import asyncio
import functools
import inspect
import threading

import pytest

import custody
from custody.index import CallFilter


@pytest.fixture
def blocking():
    with custody.open(":memory:") as runtime:
        yield runtime


def recorded(runtime):
    """The calls in the order they were asked."""
    calls = runtime.index.calls(CallFilter(order="oldest")).items
    return [runtime.index.call(call.id) for call in calls]


def on_loop(scenario):
    async def main():
        async with custody.open(":memory:") as runtime, runtime.run() as run:
            return await scenario(runtime, run)

    return asyncio.run(main())


@custody.observed
def search(query: str, limit: int = 10, *words: str, exact: bool = False, **rest: object) -> list[str]:
    """Search for something."""
    return [query] * limit


def test_a_call_has_its_arguments_by_name_as_they_were_passed(blocking):
    with blocking.run() as run:
        assert search("x", 2, "a", "b", exact=True, more=1) == ["x", "x"]
        assert search("y", limit=1) == ["y"]
        first, second = recorded(blocking)
    assert first.arguments == {"query": "x", "limit": 2, "words": ["a", "b"], "exact": True, "more": 1}
    assert second.arguments == {"query": "y", "limit": 1}
    assert (first.tool, first.result, first.outcome, first.run_id) == (
        "search",
        ["x", "x"],
        "succeeded",
        run.id,
    )


def test_it_looks_like_the_function_it_was(blocking):
    async def coroutine(): ...
    async def async_generator():
        yield

    def generator():
        yield

    assert (search.__name__, search.__doc__) == ("search", "Search for something.")
    assert list(inspect.signature(search).parameters) == ["query", "limit", "words", "exact", "rest"]
    assert inspect.iscoroutinefunction(custody.observed(coroutine))
    assert inspect.isasyncgenfunction(custody.observed(async_generator))
    assert inspect.isgeneratorfunction(custody.observed(generator))


def test_options_are_those_of_observe(blocking):
    @custody.observed(tool="web_search", effect="read", durable=True)
    def find(q):
        return q

    with blocking.run():
        find("x")
        (call,) = recorded(blocking)
    assert (call.tool, call.effect) == ("web_search", "read")


def test_an_exception_goes_on_and_is_recorded(blocking):
    @custody.observed
    def fail():
        raise LookupError("nothing there")

    with blocking.run():
        with pytest.raises(LookupError, match="nothing there"):
            fail()
        with pytest.raises(TypeError):
            fail("one too many")
        first, second = recorded(blocking)
    assert first.error == {"type": "LookupError", "message": "nothing there"}
    assert second.error["type"] == "TypeError"


def test_a_function_called_by_another_has_it_as_its_parent(blocking):
    @custody.observed
    def inner():
        return 1

    @custody.observed
    def outer():
        return inner() + 1

    with blocking.run():
        assert outer() == 2
        first, second = recorded(blocking)
    assert (first.tool, second.tool) == ("outer", "inner")
    assert (first.parent_id, second.parent_id) == (None, first.id)


def test_methods_leave_out_what_they_are_bound_to(blocking):
    class Client:
        @custody.observed
        def get(self, path):
            return path

        @custody.observed
        @classmethod
        def make(cls, name):
            return cls.__name__ + name

        @classmethod
        @custody.observed
        def make_too(cls, name):
            return cls.__name__ + name

        @custody.observed
        @staticmethod
        def parse(text):
            return text

    with blocking.run():
        client = Client()
        assert (client.get("/"), Client.make("x"), client.make_too("y"), Client.parse("z")) == (
            "/", "Clientx", "Clienty", "z",
        )  # fmt: skip
        assert [call.arguments for call in recorded(blocking)] == [
            {"path": "/"}, {"name": "x"}, {"name": "y"}, {"text": "z"},
        ]  # fmt: skip


def test_anything_that_can_be_called_can_be_observed(blocking):
    with blocking.run():
        assert custody.observed(functools.partial(int, base=2))("11") == 3
        assert custody.observed(tool="max")(max)(3, 4) == 4
        assert [call.tool for call in recorded(blocking)] == ["partial", "max"]


def test_outside_a_run_it_just_runs_and_the_log_says_so_once(caplog):
    @custody.observed
    def lonely(secret):
        return secret

    assert [lonely("s3cr3t"), lonely("s3cr3t")] == ["s3cr3t", "s3cr3t"]
    (line,) = caplog.messages
    assert "lonely" in line
    assert "s3cr3t" not in line


def test_a_thread_records_in_the_run_whose_context_it_was_given(blocking):
    import contextvars

    @custody.observed
    def work(n):
        return n

    with blocking.run() as run:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(work, 1))
        thread.start()
        thread.join()
        assert [call.run_id for call in recorded(blocking)] == [run.id]


# -- coroutines -------------------------------------------------------------------------------------------


def test_a_coroutine_is_recorded_until_it_returns():
    @custody.observed
    async def fetch(url):
        await asyncio.sleep(0)
        return url

    async def scenario(runtime, run):
        assert await asyncio.gather(fetch("a"), fetch("b")) == ["a", "b"]
        return recorded(runtime)

    calls = on_loop(scenario)
    assert sorted(call.result for call in calls) == ["a", "b"]
    assert {call.outcome for call in calls} == {"succeeded"}


def test_a_cancelled_coroutine_is_cancelled_on_the_record():
    @custody.observed
    async def hang():
        await asyncio.Event().wait()

    async def scenario(runtime, run):
        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return recorded(runtime)

    (call,) = on_loop(scenario)
    assert call.outcome == "cancelled"


# -- generators -------------------------------------------------------------------------------------------


@custody.observed
def inner_call(n):
    return n


def conversation(log):
    """A generator that uses all a generator can do."""
    try:
        said = yield "hello"
        log.append(said)
        inner_call(1)
        try:
            yield "go on"
        except KeyError as error:
            log.append(type(error).__name__)
            yield "caught"
        return "bye"
    finally:
        log.append("closed")


def talk(function):
    log = []
    generator = function(log)
    heard = [next(generator), generator.send("hi"), generator.throw(KeyError("x"))]
    with pytest.raises(StopIteration) as end:
        next(generator)
    return heard, log, end.value.value


def test_a_generator_can_be_sent_to_thrown_into_and_returns_its_value(blocking):
    plain = talk(conversation)
    with blocking.run():
        assert talk(custody.observed(conversation)) == plain
        call, inner = recorded(blocking)
    assert (call.tool, call.outcome, call.result) == ("conversation", "succeeded", {"items": 3})
    assert inner.parent_id == call.id


def test_what_a_consumer_calls_between_two_items_is_not_made_in_the_generator(blocking):
    @custody.observed
    def items():
        yield from (1, 2)

    with blocking.run():
        for item in items():
            inner_call(item)
        assert [call.parent_id for call in recorded(blocking)] == [None] * 3


def test_a_generator_that_is_left_early_is_closed_and_recorded(blocking):
    log = []
    with blocking.run():
        generator = custody.observed(conversation)(log)
        next(generator)
        generator.close()
        (call,) = recorded(blocking)
    assert log == ["closed"]
    assert (call.outcome, call.result) == ("cancelled", {"items": 1})


def test_an_exception_of_a_generator_is_recorded(blocking):
    @custody.observed
    def broken():
        yield 1
        raise OSError("torn")

    with blocking.run():
        with pytest.raises(OSError, match="torn"):
            list(broken())
        (call,) = recorded(blocking)
    assert (call.outcome, call.error["type"], call.result) == ("failed", "OSError", {"items": 1})


async def async_conversation(log):
    try:
        said = yield "hello"
        log.append(said)
        inner_call(1)
        try:
            yield "go on"
        except KeyError as error:
            log.append(type(error).__name__)
            yield "caught"
    finally:
        log.append("closed")


async def async_talk(function):
    log = []
    generator = function(log)
    heard = [await anext(generator), await generator.asend("hi"), await generator.athrow(KeyError("x"))]
    with pytest.raises(StopAsyncIteration):
        await anext(generator)
    return heard, log


def test_an_asynchronous_generator_can_be_sent_to_and_thrown_into():
    async def scenario(runtime, run):
        plain = await async_talk(async_conversation)
        assert [call.parent_id for call in recorded(runtime)] == [None]
        assert await async_talk(custody.observed(async_conversation)) == plain
        return recorded(runtime)[1:]

    call, inner = on_loop(scenario)
    assert (call.tool, call.outcome, call.result) == ("async_conversation", "succeeded", {"items": 3})
    assert inner.parent_id == call.id


def test_an_asynchronous_generator_that_is_left_early_is_closed_and_recorded():
    async def scenario(runtime, run):
        log = []
        generator = custody.observed(async_conversation)(log)
        await anext(generator)
        await generator.aclose()
        return log, recorded(runtime)

    log, (call,) = on_loop(scenario)
    assert log == ["closed"]
    assert (call.outcome, call.result) == ("cancelled", {"items": 1})
