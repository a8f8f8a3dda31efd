"""`custody purge`: take what was said off the record, and prove that nothing else was.

Owns which purge is meant, what a person is shown before and after it, and when the answer is 1: something
that was asked for is still there. What is purged, and how, is `retention`'s.
"""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from custody.cli.consent import DECLINED_EXIT_CODE, says_yes
from custody.cli.options import Moment, json_option, look, store_option
from custody.cli.progress import Progress
from custody.errors import NotRecorded, PurgeRefused, UsageError
from custody.records import rfc3339

if TYPE_CHECKING:
    from custody.retention import DropPlan, Means, Purged, PurgePlan, Selection
    from custody.settings import Settings
    from custody.stores import View

TEXT_CHARACTERS_MIN = 4
"""A shorter text stands nearly everywhere, and would empty the store."""


@click.command(
    "purge",
    epilog="Example:  custody purge --before 90d --dry-run",
)
@click.option(
    "--before", "before_us", type=Moment(), metavar="TIME", help="Ended before: 30d, 2026-05-01, RFC 3339."
)
@click.option("--run", "run_text", metavar="RUN", help="Of this run.")
@click.option(
    "--match", "text", metavar="TEXT", help="In which this text stands, letter for letter; - reads it."
)
@click.option("--secrets", is_flag=True, help="In which today's scanners find a secret.")
@click.option("--retention", is_flag=True, help="Beyond the bounds of [retention] in the settings.")
@click.option("--whole", is_flag=True, help="With --before: whole segments, leaves and all.")
@click.option("--reason", metavar="TEXT", help="Why; it stays on the record.")
@click.option("--force", is_flag=True, help="Also of a run that has not ended.")
@click.option("--dry-run", is_flag=True, help="Only say what would be purged.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@json_option
def purge_command(store: str | None, as_json: bool, dry_run: bool, yes: bool, **given: Any) -> int:
    """Take what calls said off the record; that they were made stays.

    Of several selectors all must hold. What is held (`custody hold`) is never taken.
    """
    _check(given)
    if given["text"] == "-":
        given["text"] = sys.stdin.read().rstrip("\n")
    if given["text"] is not None and len(given["text"]) < TEXT_CHARACTERS_MIN:
        raise UsageError(f"A text of {len(given['text'])} characters stands nearly everywhere.")
    asks = not (yes or dry_run or as_json) and sys.stdin.isatty() and sys.stderr.isatty()
    if not (yes or dry_run or asks):
        raise UsageError("Nobody is there to be asked.", hint="Look with --dry-run, then say --yes.")
    from custody.cli.purging import opened_to_purge

    settings = look(store)
    with opened_to_purge(settings) as (view, means):
        return _Purge(settings, view, means, given, asks=asks, as_json=as_json, dry_run=dry_run).run()


def _check(given: dict[str, Any]) -> None:
    named = [name for name in ("before_us", "run_text", "text") if given[name] is not None]
    named += [name for name in ("secrets", "retention") if given[name]]
    if given["whole"] and named != ["before_us"]:
        raise UsageError("--whole drops what is older than a time, and takes --before alone.")
    if given["retention"] and named != ["retention"]:
        raise UsageError("--retention takes what the settings say, and no selector beside it.")
    if not named:
        raise UsageError(
            "What is to be purged?", hint="--before TIME, --run RUN, --match TEXT, --secrets or --retention."
        )


class _Purge:
    """One purge, from the look at the store to the last word."""

    def __init__(
        self,
        settings: "Settings",
        view: "View",
        means: "Means",
        given: dict[str, Any],
        *,
        asks: bool,
        as_json: bool,
        dry_run: bool,
    ) -> None:
        self.settings, self.view, self.means, self.given = settings, view, means, given
        self.asks, self.as_json, self.dry_run = asks, as_json, dry_run

    def run(self) -> int:
        from custody.retention import finish_purges
        from custody.retention.holds import purge_lock

        if self.dry_run:
            return self._go()
        lock = purge_lock(self.view.journal)
        try:
            finish_purges(self.means, locked=True)
            return self._go()
        finally:
            lock.release()

    def _go(self) -> int:
        journal = self.view.journal
        with contextlib.suppress(NotRecorded):  # of a store that can only be read
            for shard in journal.purging.shards():
                journal.settled_tree(shard)  # what dead writers left becomes durable
        return self._drop() if self.given["whole"] else self._purge()

    # -- payloads -----------------------------------------------------------------------------------------

    def _purge(self) -> int:
        from custody.retention import Purged, carry_out, plan_purge

        selection = self._selection()
        if selection is None:
            return self._nothing()
        with Progress("looking, {} records") as progress:
            plan = plan_purge(self.view.journal, selection, progress)
        if selection.run_id is not None and plan.left.held:
            raise PurgeRefused(
                "The run is held; nothing of it was purged.",
                hint=f"custody hold {selection.run_id.hex()[:8]} --release lets it go.",
            )
        if not self.as_json:
            _tell_plan(plan)
        if self.dry_run or plan.empty:
            done = Purged(purge_id=None)
        elif self.asks and not says_yes("Purge it? It cannot be brought back.", "Nothing was purged."):
            return DECLINED_EXIT_CODE
        else:
            with _Working():
                done = carry_out(self.means, plan, reason=self.given["reason"])
        return self._tell(plan, done)

    def _selection(self) -> "Selection | None":
        """What is asked for; None where the settings bound nothing, or all is within the bounds."""
        from custody.cli.purging import finder
        from custody.retention import Bounds, Selection

        given, run_id = self.given, None
        before_us = given["before_us"]
        if given["retention"]:
            section = self.settings.file.retention
            bounds = Bounds(days_max=section.days_max, bytes_max=section.bytes_max)
            with Progress("looking, {} records") as progress:
                before_us = bounds.before_us(self.view.journal, _now_us(), progress)
            if before_us is None:
                return None
        if given["run_text"] is not None:
            run = self.view.index.run(given["run_text"])
            if run.outcome is None and not given["force"]:
                raise PurgeRefused(
                    f"The run {run.id[:8]} has not ended.",
                    hint="--force takes what is on the record of it by now.",
                )
            run_id = bytes.fromhex(run.id)
        return Selection(
            before_us=before_us,
            run_id=run_id,
            text=given["text"],
            find=finder(self.settings) if given["secrets"] else None,
            force=given["force"],
        )

    def _nothing(self) -> int:
        if self.as_json:
            from custody.cli.document import print_document

            print_document({"dry_run": self.dry_run, "records": 0, "complete": True})
        else:
            print("Nothing is beyond the bounds of [retention]; 0 there bounds nothing.")
        return 0

    def _tell(self, plan: "PurgePlan", done: "Purged") -> int:
        searched, left = plan.selection.searches, plan.left
        stays = left.held or left.open or left.undurable or plan.leaves_hit
        complete = done.index_clean and not (searched and stays)
        if self.as_json:
            _print_purged(plan, done, dry_run=self.dry_run, complete=complete)
        else:
            _tell_rest(plan, done)
            if done.purge_id is not None:
                print(f"Purged, as {done.purge_id}.")
            elif self.dry_run:
                print("Nothing was touched.")
        return 0 if complete else 1

    # -- whole segments -----------------------------------------------------------------------------------

    def _drop(self) -> int:
        from custody.retention import drop_segments, plan_drop
        from custody.retention.purge import Purged

        with Progress("looking, {} records") as progress:
            plan = plan_drop(self.view.journal, self.given["before_us"], progress)
        if not self.as_json:
            _tell_drop(plan)
        if self.dry_run or not plan.shards:
            done = Purged(purge_id=None)
        elif self.asks and not says_yes("Drop them? Not even their leaves stay.", "Nothing was dropped."):
            return DECLINED_EXIT_CODE
        else:
            with _Working():
                done = drop_segments(self.means, plan, reason=self.given["reason"])
        if self.as_json:
            _print_dropped(plan, done, dry_run=self.dry_run)
        elif done.purge_id is not None:
            print(f"Dropped, as {done.purge_id}.")
        return 0 if done.index_clean else 1


def _now_us() -> int:
    from custody.records import now_us

    return now_us()


# -- in words ---------------------------------------------------------------------------------------------


def _tell_plan(plan: "PurgePlan") -> None:
    from custody.cli.render import size

    if plan.selection.before_us is not None:
        print(f"Before {rfc3339(plan.selection.before_us)}:")
    print(
        f"{_many(len(plan.calls), 'call')} and {_many(len(plan.runs), 'run')}: "
        f"what {_many(plan.records, 'record')} said, {size(plan.payload_bytes)}; "
        f"{_many(len(plan.blobs), 'blob')} that nothing else names."
    )
    for rule, count in sorted(plan.rules.items()):
        print(f"  {rule}: {count:,}")


def _tell_rest(plan: "PurgePlan", done: "Purged") -> None:
    """What stays although it was asked for."""
    from custody.cli.invocation import message

    left = plan.left
    if left.held:
        message(f"{_many(left.held, 'record')} stay: their runs are held.")
    if left.open:
        message(f"{_many(left.open, 'record')} stay: their calls or runs have not ended.")
    if left.undurable:
        message(
            f"{_many(left.undurable, 'record')} stay: written a moment ago. The same command takes them now."
        )
    if plan.leaves_hit:
        message(
            f"The text also stands in {_many(plan.leaves_hit, 'leaf', 'leaves')} (names, reasons, ids), "
            "which are kept for ever; only --whole drops them."
        )
    if plan.unread:
        message(f"{_many(plan.unread, 'blob')} cannot be read, and go with what names them.")
    if not done.index_clean:
        message(
            "Another process kept the index from being emptied; whoever opens the store next tries again."
        )


def _tell_drop(plan: "DropPlan") -> None:
    from custody.cli.render import size

    for going in plan.shards:
        print(
            f"Shard {going.shard}: segments {going.first} to {going.last}, {_many(going.records, 'record')}, "
            f"{size(going.bytes)}; it then begins with record {going.first_kept}."
        )
    if not plan.shards:
        print("No whole segment is over, released and older than that.")


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {many or one + 's'}"


# -- as JSON ----------------------------------------------------------------------------------------------


def _print_purged(plan: "PurgePlan", done: "Purged", *, dry_run: bool, complete: bool) -> None:
    from custody.cli.document import print_document

    left = plan.left
    print_document(
        {
            "dry_run": dry_run,
            "purge_id": done.purge_id,
            "by": plan.selection.stated(),
            "calls": len(plan.calls),
            "runs": len(plan.runs),
            "records": plan.records,
            "payload_bytes": plan.payload_bytes,
            "blobs": len(plan.blobs),
            "leftover_bytes": done.leftover_bytes,
            "rules": plan.rules,
            "left": {"held": left.held, "open": left.open, "undurable": left.undurable},
            "leaves_with_text": plan.leaves_hit,
            "blobs_unread": plan.unread,
            "index_clean": done.index_clean,
            "complete": complete,
        }
    )


def _print_dropped(plan: "DropPlan", done: "Purged", *, dry_run: bool) -> None:
    from custody.cli.document import print_document

    print_document(
        {
            "dry_run": dry_run,
            "purge_id": done.purge_id,
            "before": rfc3339(plan.before_us),
            "shards": [
                {
                    "shard": going.shard,
                    "segments": [going.first, going.last],
                    "records": going.records,
                    "bytes": going.bytes,
                    "first_kept": going.first_kept,
                }
                for going in plan.shards
            ],
            "index_clean": done.index_clean,
        }
    )


# -- progress ---------------------------------------------------------------------------------------------


class _Working:
    """Says that it works: on a terminal, from the first second on."""

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\rcustody: purging …\x1b[K")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
