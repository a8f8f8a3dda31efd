"""What is recorded of a model's turn, and what is not."""

import asyncio
import time

import pytest
from tests.calls.faces import Stage, events, of_kind

import custody
from custody.errors import InvalidSetting
from custody.records import Step, Tokens


def play_steps(stage: Stage, offer, **options):
    """The steps that `offer(run)` recorded, as the index shows them."""

    async def scenario(runtime):
        async with runtime.run("think", agent="a", **options) as run:
            offer(run)
        return runtime.index.run_steps(run.run_id), run.totals

    return stage.play(scenario)


def only_step(stage: Stage, *arguments, **options):
    (step,), totals = play_steps(stage, lambda run: run.step(*arguments, **options))
    assert totals.dropped == 0
    return step


def test_a_step_says_what_its_caller_knows_of_it(stage: Stage):
    step = only_step(
        stage,
        "Let me look.",
        model="claude-sonnet-4-5-20250929",
        requested_model="claude-sonnet-4-5",
        tokens={"input": 1_000, "output": 200, "cache_read": 400},
        model_us=1_500_000,
        finish_reason="tool_use",
        calls=[{"id": "toolu_1", "name": "search", "arguments": {"q": "x"}}],
        external_id="msg_1",
        agent="helper",
        data={"temperature": 0.1},
    )
    assert (step.iteration, step.position) == (1, 0)
    assert (step.model, step.requested_model) == ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5")
    assert (step.text, step.text_bytes, step.text_cut_bytes, step.text_withheld) == (
        "Let me look.",
        12,
        0,
        False,
    )
    assert step.tokens == Tokens(1_000, 200, None, 400, None)
    assert (step.model_us, step.finish_reason, step.external_id) == (1_500_000, "tool_use", "msg_1")
    assert (step.requested, step.agent, step.responded) == (("search",), "helper", True)
    assert step.calls == [{"id": "toolu_1", "name": "search", "arguments": {"q": "x"}}]
    assert step.data == {"temperature": 0.1}
    assert step.cost_nano_usd > 0
    assert step.prices
    assert step.unusable == ()


def test_what_nobody_said_is_unknown_and_never_zero(stage: Stage):
    step = only_step(stage)
    assert (step.text, step.text_bytes, step.model, step.tokens, step.model_us, step.cost_nano_usd) == (
        None,
    ) * 6
    assert (step.requested, step.calls, step.finish_reason, step.responded) == ((), None, None, True)


def test_no_answer_at_all_is_a_step_too(stage: Stage):
    step = only_step(stage, None, requested_model="m", responded=False, finish_reason="timeout")
    assert (step.responded, step.text, step.finish_reason, step.iteration) == (False, None, "timeout", 1)


def test_iterations_and_the_time_since_the_step_before_count_the_tools_in(stage: Stage, monkeypatch):
    now_ms = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ms * 1_000_000)

    async def scenario(runtime):
        nonlocal now_ms
        async with runtime.run() as run:
            now_ms = 30
            run.step("one")
            async with run.observe("slow"):
                now_ms = 80
            run.step("two")
            run.step("three")
        return runtime.index.run_steps(run.run_id)

    steps = stage.play(scenario)
    assert [step.iteration for step in steps] == [1, 2, 3]
    assert [step.position for step in steps] == [0, 2, 3]
    assert [step.since_previous_us for step in steps] == [30_000, 50_000, 0]


# -- the text ---------------------------------------------------------------------------------------------


def test_a_text_is_cut_at_2000_characters_and_the_rest_is_counted(stage: Stage):
    text = "é" * 3_000
    step = only_step(stage, text)
    assert step.text == "é" * 2_000
    assert (step.text_bytes, step.text_cut_bytes) == (6_000, 2_000)


@pytest.mark.parametrize(
    ("most", "kept"), [(10, 10), (0, 0), (None, 3_000), (5_000, 3_000), (-1, 0), ("x", 3_000)]
)
def test_the_caller_may_say_where_it_is_cut(stage: Stage, most, kept):
    step = only_step(stage, "x" * 3_000, text_characters_max=most)
    assert (step.text, step.text_bytes) == ("x" * kept, 3_000)
    assert step.text_cut_bytes == 3_000 - kept


def test_the_whole_text_is_kept_beside_the_cut_if_asked(stage: Stage):
    text = "0123456789" * 5_000

    async def scenario(runtime):
        async with runtime.run() as run:
            run.step(text, whole_text=True)
        ((leaf, said),) = of_kind(runtime, Step)
        return leaf, said, runtime.journal.get_blob(bytes.fromhex(said["whole_text"]["$blob"]))

    leaf, said, blob = stage.play(scenario)
    assert said["text"] == text[:2_000]
    assert text.encode() in blob
    assert (leaf.text_bytes, leaf.text_cut_bytes) == (50_000, 0)


def test_a_secret_across_the_cut_leaves_no_half_behind(stage: Stage, monkeypatch):
    secret = "s3cr3t-v4lue-that-nobody-may-keep"
    monkeypatch.setenv("DEPLOY_TOKEN", secret)
    step = only_step(stage, "x" * 1_990 + secret + "y" * 100)
    assert "s3cr3t" not in step.text
    assert step.redactions


def test_text_that_is_not_utf8_or_no_text_is_kept_as_well_as_it_can_be(stage: Stage):
    (first, second), _ = play_steps(stage, lambda run: (run.step("a\ud800b"), run.step(12.5)))
    assert first.text == {"$type": "str", "escaped": "a\\ud800b"}
    assert first.text_bytes == 5
    assert second.text == "12.5"


# -- turns that ask for a tool that handles secrets -------------------------------------------------------


@pytest.mark.parametrize(
    "tool", ["mcp_call", "email_send", "http_get", "webhook_post", "HTTP-Post", "mail__email_send"]
)
def test_a_turn_that_asks_for_a_secret_bearing_tool_keeps_its_narration_back(stage: Stage, tool):
    text = "I will send the password hunter2 to bob"
    step = only_step(stage, text, calls=[{"name": "search"}, {"name": tool, "arguments": {"to": "bob"}}])
    assert (step.text, step.text_withheld, step.text_bytes) == (None, True, len(text))
    assert step.text_cut_bytes == 0
    assert step.requested == ("search", tool)


@pytest.mark.parametrize(
    "calls",
    [
        [{"name": "search"}] * 1_000 + [{"name": "http_post"}],
        [{"name": "http_" + "x" * 300}],
    ],
    ids=["too many", "too long"],
)
def test_a_secret_bearing_tool_among_requests_that_are_not_kept_keeps_the_narration_back(stage: Stage, calls):
    step = only_step(stage, "the password is …", calls=calls)
    assert (step.text, step.text_withheld) == (None, True)
    step = only_step(stage, {"narration": "the password is …"}, calls=calls)
    assert (step.text, step.data) == (None, None)


def test_other_tools_keep_nothing_back(stage: Stage):
    step = only_step(stage, "hello", calls=[{"name": "search"}, {"name": "https"}])
    assert (step.text, step.text_withheld) == ("hello", False)


def test_what_a_setting_keeps_as_a_digest_is_not_in_the_step_that_asks_for_it(stage: Stage, tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + '[observe]\nsecret_tools_keep = "digest"\n')
    step = only_step(stage, calls=[{"id": "1", "name": "http_get", "arguments": {"url": "https://x/?k=abc"}}])
    assert step.calls == [{"id": "1", "name": "http_get", "arguments": {"$omitted": True}}]


# -- models -----------------------------------------------------------------------------------------------


def test_the_first_served_model_and_each_failover_have_an_event(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            for model in (None, "a", "a", None, "b", "b", "a"):
                run.step("x", model=model)
        return events(runtime, "run.model")

    assert stage.play(scenario) == [
        {"model": "a", "previous": None}, {"model": "b", "previous": "a"}, {"model": "a", "previous": "b"},
    ]  # fmt: skip


# -- tokens and cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "kept", "unusable"),
    [
        ({"input": -1, "output": 5}, Tokens(None, 5), ("tokens.input",)),
        ({"input": float("nan")}, None, ("tokens.input",)),
        ({"input": float("inf")}, None, ("tokens.input",)),
        ({"input": 12.0, "output": 1.5}, Tokens(12), ("tokens.output",)),
        ({"input": 10**30}, None, ("tokens.input",)),
        ({"input": "12"}, None, ("tokens.input",)),
        ({"input": True}, None, ("tokens.input",)),
        ({"input": 3, "total": 7, 5: 1}, Tokens(3), ("tokens.total", "tokens.5")),
        ({}, None, ()),
        ({"input": 0}, Tokens(0), ()),
        (Tokens(1, 2, 3, 4, 5), Tokens(1, 2, 3, 4, 5), ()),
        (Tokens(-1, 2), Tokens(None, 2), ("tokens.input",)),
        (17, None, ("tokens",)),
        ("many", None, ("tokens",)),
    ],
)
def test_a_count_that_cannot_be_one_is_left_out_and_its_name_noted(stage: Stage, tokens, kept, unusable):
    step = only_step(stage, "x", tokens=tokens)
    assert (step.tokens, step.unusable) == (kept, unusable)


@pytest.mark.parametrize(
    ("options", "unusable"),
    [
        ({"model_us": -5}, ("model_us",)),
        ({"model_us": "fast"}, ("model_us",)),
        ({"model": 7}, ("model",)),
        ({"model": "m" * 10_000}, ("model",)),
        (
            {"finish_reason": ["stop"], "external_id": 5, "agent": b"a"},
            ("finish_reason", "external_id", "agent"),
        ),
        ({"calls": 5}, ("calls",)),
        ({"calls": ["search", None, 7]}, ("calls",)),
        ({"calls": {"name": "search"}}, ("calls",)),
        ({"calls": [{"name": 7}]}, ("calls.name",)),
        ({"calls": None}, ()),
        ({"responded": "perhaps"}, ()),
        ({"calls": [{"name": "x" * 200}] * 5_000}, ("calls", "requested")),
        ({"tokens": dict.fromkeys(map(str, range(100_000)), 1)}, None),
    ],
    ids=range(13),
)
def test_whatever_else_makes_no_sense_costs_its_own_place_and_nothing_more(stage: Stage, options, unusable):
    step = only_step(stage, "still here", **options)
    assert step.text == "still here"
    if unusable is not None:
        assert step.unusable == unusable
    assert len(step.unusable) <= 16


def test_calls_that_raise_while_they_are_read_keep_those_before(stage: Stage):
    def calls():
        yield {"name": "search"}
        raise RuntimeError("the stream broke")

    step = only_step(stage, "x", calls=calls())
    assert (step.requested, step.unusable) == (("search",), ("calls",))


def test_costs_add_up_and_an_unknown_model_has_an_unknown_cost(stage: Stage):
    def offer(run):
        run.step("a", model="claude-sonnet-4-5", tokens={"input": 1_000_000, "output": 0})
        run.step("b", model="nobody-knows-it", tokens={"input": 5, "output": 5})
        run.step("c", model="claude-sonnet-4-5")

    (first, second, third), totals = play_steps(stage, offer)
    assert first.cost_nano_usd == totals.cost_nano_usd > 10**9
    assert (second.cost_nano_usd, second.prices, third.cost_nano_usd) == (None, None, None)
    assert (totals.steps_without_cost, totals.steps_without_tokens) == (2, 1)
    assert totals.input_tokens == 1_000_005


def test_a_price_table_that_cannot_be_read_is_said_when_the_store_is_opened(stage: Stage, tmp_path):
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + '[observe]\nprices = "/no/such/table.toml"\n')
    with pytest.raises(InvalidSetting, match=r"/no/such/table\.toml"):
        only_step(stage)


def test_sums_of_miscounts_stay_within_what_a_record_can_hold(stage: Stage, tmp_path):
    table = tmp_path / "dear.toml"
    table.write_text(
        'version = "1"\n[[model]]\nmatch = ["m"]\nprovider = "p"\ninput = "1000000"\noutput = "1000000"\n'
    )
    path = tmp_path / "config" / "custody" / "custody.toml"
    path.write_text(path.read_text() + f'[observe]\nprices = "{table}"\n')

    async def scenario(runtime):
        async with runtime.run() as run:
            for _ in range(30):
                run.step("x", model="m", tokens={"input": 10**9, "output": 0})
        return run.totals, runtime.index.run(run.id)

    totals, run = stage.play(scenario)
    assert totals.cost_nano_usd == 2**63 - 1
    assert (run.outcome, run.totals.steps) == ("succeeded", 30)


# -- which step calls belong to ---------------------------------------------------------------------------


def test_calls_belong_to_the_step_before_them_or_the_one_they_name(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run:
            async with run.observe("none"):
                pass
            first = run.step("one")
            async with run.observe("of first"):
                pass
            second = run.step("two")
            async with run.observe("of second"):
                pass
            async with run.observe("of first again", step=first):
                pass
            with first:
                async with run.observe("of first inside"):
                    pass
            async with run.observe("of second again"):
                pass
        found = [call.step_id for call in runtime.index.run_calls(run.run_id)]
        return found, [None, first.id, second.id, first.id, first.id, second.id]

    found, expected = stage.play(scenario)
    assert found == expected


def test_a_step_of_another_run_is_not_taken_for_this_ones(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as first, runtime.run() as second:
            first.step("of the first")
            async with second.observe("search"):
                pass
        return [call.step_id for call in runtime.index.run_calls(second.run_id)]

    assert stage.play(scenario) == [None]


def test_a_step_that_was_refused_names_nothing(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as done:
            pass
        refused = done.step("late")
        assert (refused.id, refused.position, refused.stored) == ("", None, None)
        async with runtime.run() as run:
            with refused:
                async with run.observe("search", step=refused):
                    pass
        return [call.step_id for call in runtime.index.run_calls(run.run_id)]

    assert stage.play(scenario) == [None]


def test_a_thread_without_context_uses_the_runs_last_step():
    import threading

    with custody.open(":memory:") as runtime, runtime.run() as run:
        step = run.step("x")

        def work():
            with run.observe("search"):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        (call,) = runtime.index.run_calls(run.run_id)
        assert call.step_id == step.id


def test_a_step_inside_a_call_names_it_as_its_parent(stage: Stage):
    async def scenario(runtime):
        async with runtime.run() as run, run.observe("sub-agent") as call:
            run.step("thinking inside")
        (step,) = runtime.index.run_steps(run.run_id)
        return step.parent_id == call.id

    assert stage.play(scenario)


def test_steps_of_concurrent_tasks_have_iterations_of_their_own():
    async def scenario(runtime):
        async with runtime.run() as run:

            async def think(number):
                await asyncio.sleep(0)
                return run.step(f"{number}").position

            positions = await asyncio.gather(*(think(number) for number in range(10)))
        return sorted(positions), sorted(step.iteration for step in runtime.index.run_steps(run.run_id))

    positions, iterations = Stage("asyncio").play(scenario)
    assert positions == list(range(10))
    assert iterations == list(range(1, 11))
