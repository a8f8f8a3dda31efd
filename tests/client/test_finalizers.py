"""What a program forgot ends when the garbage collector comes by, in whatever thread: also in the link's."""

import contextvars
import threading

from tests.calls.faces import Forgotten, collecting, counted, forget
from tests.client.daemon import WireStage

FORGOTTEN = 50


def test_with_the_collector_at_every_allocation_forgotten_tasks_leave_nothing_open():
    stage = WireStage("asyncio")

    async def scenario(runtime):
        async with runtime.run("work") as run:
            await forget(run, FORGOTTEN)
            await Forgotten.all_thrown_away()
            return run.totals

    with collecting():
        totals = stage.play(scenario)
    assert (totals.calls, totals.steps, totals.dropped) == (FORGOTTEN, FORGOTTEN, 0)

    async def look(runtime):
        return counted(runtime)

    runs, calls = stage.play(look)
    assert runs == {"succeeded": 1, "cancelled": FORGOTTEN}
    assert calls == {"succeeded": FORGOTTEN, "cancelled": FORGOTTEN}


def test_what_ends_in_the_thread_of_the_link_does_not_wait_for_itself(runtime):
    with runtime.run("work") as run:

        def work():
            with run.child("part") as child, child.observe("slow"):
                yield

        generator, over = work(), threading.Event()
        contextvars.copy_context().run(next, generator)  # where it was entered it is never left

        def throw_away():
            generator.close()
            over.set()

        runtime.link.soon(throw_away)
        assert over.wait(30)
    ended = {run.intent: run.outcome for run in runtime.index.runs().items}
    assert ended == {"work": "succeeded", "part": "cancelled"}
