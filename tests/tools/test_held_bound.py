"""What is held is what the record says, and what a person has seen: anything else is not put in place."""

import os

import msgspec
import pytest
from tests.tools.holding import Rearrange
from tests.tools.test_commit_discard import ACTS, held, opened
from tests.tools.trees import Place, message, succeeded, tree

from custody.calls.answers import no, yes
from custody.changes.held.manifest import pack, unpack
from custody.tools import Asker
from custody.tools.held_changes import CommitTool

SECRET = "hunter2-hunter2-9"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def forge(place, call, **changes):
    """Another manifest with a digest of its own, as who can write to the store could make one."""
    folder = place.store / "undo" / "held" / call.id
    manifest = folder / "manifest"
    old = unpack(manifest.read_bytes(), bytes.fromhex(call.id), os.fspath(folder))
    first = old.entries[0]
    after = msgspec.structs.replace(first.after, **(changes or {"mode": 0o777}))
    entries = (msgspec.structs.replace(first, after=after), *old.entries[1:])
    manifest.write_bytes(pack(msgspec.structs.replace(old, entries=entries)))


def test_the_record_says_the_digest_of_what_is_held(place):
    with opened(place) as runtime:
        call = held(runtime, "one")
        manifest = (place.store / "undo" / "held" / call.id / "manifest").read_bytes()
        assert call.held_digest == manifest[:32].hex()
        assert runtime.index.call(call.id).held_digest == call.held_digest
        assert runtime.call("discard", {"call": call.id}).held_digest is None


def test_a_manifest_that_somebody_wrote_anew_is_neither_committed_nor_cleared_away_by_an_agent(place):
    before = tree(place.work)
    with opened(place) as runtime:
        call = held(runtime, "one")
        forge(place, call)
        for tool in ("commit", "discard"):
            refused = runtime.call(tool, {"call": call.id})
            assert refused.error["type"] == "NothingHeld"
            assert "is not what its record says" in message(refused)
            assert "A person drops what is there" in message(refused)
        assert tree(place.work) == before
        assert runtime.index.call(call.id).held == "held"


def test_a_person_drops_what_somebody_wrote_anew_and_the_record_says_that_it_was(place, monkeypatch):
    with opened(place) as runtime:
        call = held(runtime, "one")
        forge(place, call)
        monkeypatch.setattr("custody.calls.runtime.asker_of", lambda *_, **__: Asker(typed=True))
        dropped = runtime.call("discard", {"call": call.id})
        (warning,) = succeeded(dropped)["warnings"]
        assert "is not what its record says" in warning
        assert runtime.index.call(call.id).held == "discarded"


def test_what_an_earlier_version_held_is_committed_and_said_not_to_be_bound(place, monkeypatch):
    execute = Rearrange.execute

    async def without_digest(self, arguments, context):
        ended = await execute(self, arguments, context)
        return msgspec.structs.replace(ended, held_digest=None)

    monkeypatch.setattr(Rearrange, "execute", without_digest)
    with opened(place) as runtime:
        call = held(runtime, "one")
        assert runtime.index.call(call.id).held_digest is None
        result = succeeded(runtime.call("commit", {"call": call.id}))
        assert any("not bound to the record" in warning for warning in result["warnings"])
    assert (place.work / "one").read_text() == "1\n"


def test_a_commit_is_asked_about_with_what_it_would_put_in_place_secrets_replaced_and_counted(
    place, monkeypatch
):
    acts = {**ACTS, "secret": lambda root: (root / "one").write_text(f"key {SECRET}\n")}
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    asked = []

    async def look(question):
        asked.append(question)
        return no(question, "kim")

    with place.open(tools=[Rearrange(acts)]) as runtime:
        runtime._runtime.prompt = look
        call = held(runtime, "secret")
        commit = runtime.call("commit", {"call": call.id})
        assert commit.outcome == "rejected"
        said = runtime.index.questions.shown(bytes.fromhex(commit.id))
        again = runtime.index.call(commit.id)
    (question,) = asked
    assert "--- /dev/null\n+++ b/one\n@@ -0,0 +1 @@\n+key [redacted:" in question.difference
    assert question.difference == said["difference"] and SECRET not in str(said)
    (hit,) = [one for one in again.redactions if one.path == "difference"]
    assert hit.count == 1


def test_a_set_that_changed_between_the_question_and_the_answer_is_not_committed(place):
    before = tree(place.work)
    with opened(place) as runtime:
        call = held(runtime, "one")

        async def forge_and_say_yes(question):
            forge(place, call)
            return yes(question, "kim")

        runtime._runtime.prompt = forge_and_say_yes
        refused = runtime.call("commit", {"call": call.id})
        assert (refused.outcome, refused.decision.verdict) == ("rejected", "deny")
        assert "has changed meanwhile" in message(refused)
        assert tree(place.work) == before


def test_a_yes_to_one_set_does_not_let_another_one_pass_of_the_same_call(place):
    """Where the record has no digest the yes alone binds."""
    with opened(place) as runtime:
        call = held(runtime, "one")
        digests = []

        async def note(question):
            digests.append(question.digest)
            return no(question, "kim")

        runtime._runtime.prompt = note
        runtime.call("commit", {"call": call.id})
        runtime.call("commit", {"call": call.id})
        forge(place, call)
        runtime.call("commit", {"call": call.id})
    assert len(set(digests[:2])) == 1 and digests[2] != digests[0]


@pytest.mark.parametrize("keep", ["digest", "none"])
def test_where_the_record_keeps_nothing_of_commits_the_question_has_the_short_form(place, keep, monkeypatch):
    monkeypatch.setattr(CommitTool, "keep", keep)
    asked = []

    async def look(question):
        asked.append(question)
        return yes(question, "kim")

    with opened(place) as runtime:
        runtime._runtime.prompt = look
        call = held(runtime, "one")
        succeeded(runtime.call("commit", {"call": call.id}))
    assert asked[0].difference is None
