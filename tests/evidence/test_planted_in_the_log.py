"""What Custody logs while something goes wrong with what an agent does."""

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from tests.adapters.langchain_scripted import Scripted, says
from tests.calls.faces import FACES
from tests.evidence.planting import Secret, by_form, by_surroundings, known_values, leaks

import custody
from custody.adapters.langchain import CustodyCallbacks
from custody.compose import open_runtime
from custody.records import Kind
from custody.settings import load_settings

log = logging.getLogger("custody")


def lines(caplog: pytest.LogCaptureFixture) -> bytes:
    shown = [logging.Formatter().format(record) for record in caplog.records]
    return "\n".join([*shown, *map(repr, (record.args for record in caplog.records))]).encode()


def logged_here(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Not what another thread of this process logs meanwhile."""
    return [record for record in caplog.records if record.thread == threading.get_ident()]


def test_an_error_that_repeats_what_it_was_about_is_logged_without_it(
    store: Path, secrets: tuple[Secret, ...], caplog: pytest.LogCaptureFixture
):
    with custody.open(store):
        for secret in secrets:
            try:
                raise ValueError(f"could not use {secret.text}") from KeyError(secret.text)
            except ValueError as error:
                log.warning("It went wrong: %r", error, exc_info=error)
                log.error("%s: %s", secret.text, error)
                log.exception(secret.text)
    assert len(logged_here(caplog)) == 3 * len(secrets)
    assert "It went wrong: ValueError(" in caplog.text
    assert "Traceback" in caplog.text
    found = leaks(secrets, [("the log", lines(caplog))])
    assert found == [], "\n".join(found)


def test_a_line_that_cannot_be_looked_at_is_left_out(store: Path, caplog: pytest.LogCaptureFixture):
    with custody.open(store):
        log.warning("%d", by_form()[0].text)
    assert "could not be searched for secrets" in caplog.text


def test_ordinary_lines_stay_as_they_are(store: Path, caplog: pytest.LogCaptureFixture):
    with custody.open(store):
        log.warning("Run %s has finished (%s).", "3fa9c1d2", "succeeded")
        log.warning("nothing", exc_info=ValueError("ordinary"))
    first, second = logged_here(caplog)
    assert (first.msg, first.args) == ("Run %s has finished (%s).", ("3fa9c1d2", "succeeded"))
    assert second.exc_info is not None


def test_another_programs_lines_are_not_touched(store: Path, caplog: pytest.LogCaptureFixture):
    with custody.open(store):
        logging.getLogger("custody_of_others").warning(by_form()[0].text)
    assert by_form()[0].text in caplog.text


@pytest.mark.parametrize("face", FACES)
def test_what_is_refused_after_a_run_and_outside_one_is_logged_without_secrets(
    face: str, store: Path, secrets: tuple[Secret, ...], caplog: pytest.LogCaptureFixture
):
    async def scenario(runtime: Any) -> None:
        for secret in secrets[::8]:
            run = runtime.run(secret.text)
            async with run:
                await run.finish(secret.text, reason=secret.text)
            run.step(secret.text)
            await run.finish(secret.text)

            @custody.observed(tool=secret.text)
            def outside(text: str) -> str:
                return text

            outside(secret.text)

    FACES[face](scenario, lambda: open_runtime(load_settings(store=str(store))))
    assert caplog.records
    found = leaks(secrets, [("the log", lines(caplog))])
    assert found == [], "\n".join(found)


def test_a_callback_that_cannot_be_recorded_says_so_without_secrets(
    store: Path, caplog: pytest.LogCaptureFixture
):
    secrets = (*by_form()[::7], *by_surroundings()[::7], *known_values()[::7])

    @tool
    def search(query: str) -> str:
        """Search."""
        return query

    with custody.open(store) as runtime:
        for secret in secrets:
            with suppress(Exception), runtime.run("work") as run:
                callbacks = CustodyCallbacks(run)
                callbacks.note_failure(Kind.STEP, ValueError(f"no {secret.text}"))
                model = Scripted(script=[says(secret.text, ("1", "search", {"query": secret.text}))])
                model.invoke(secret.text, {"callbacks": [callbacks]})
    assert caplog.records
    found = leaks(secrets, [("the log", lines(caplog))])
    assert found == [], "\n".join(found)
