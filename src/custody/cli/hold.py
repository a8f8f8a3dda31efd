"""`custody hold`: keep a run from being purged, or let it go again.

Owns the words for it. What a hold protects from, and how, is `retention`'s.
"""

from typing import TYPE_CHECKING

import click

from custody.cli.options import complete_id, json_option, look, store_option
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.retention.holds import Hold


@click.command("hold", epilog='Example:  custody hold 3fa9c1d2 --reason "case 4711"')
@click.argument("run_text", metavar="[RUN]", required=False, shell_complete=complete_id)
@click.option("--reason", metavar="TEXT", help="Why; it stays on the record.")
@click.option("--release", is_flag=True, help="Let it be purged again.")
@click.option("--list", "listed", is_flag=True, help="Show the runs that are held.")
@store_option
@json_option
def hold_command(
    run_text: str | None, reason: str | None, release: bool, listed: bool, store: str | None, as_json: bool
) -> int:
    """Keep a run from being purged, whatever the settings say."""
    if (run_text is None) != listed:
        raise UsageError("Name a run, or say --list.")
    if listed and (release or reason is not None):
        raise UsageError("--list takes neither --release nor --reason.")
    from custody.cli.purging import opened_to_purge
    from custody.retention import held_runs, hold_run, release_run

    with opened_to_purge(look(store)) as (view, means):
        if run_text is None:
            _show(held_runs(view.index), as_json=as_json)
            return 0
        run = view.index.run(run_text)
        state = release_run if release else hold_run
        recorder = means.make_recorder()
        state(view.journal, recorder, bytes.fromhex(run.id), reason)
        said = None if reason is None else recorder.clean_text(reason, "reason")[0]
    if as_json:
        from custody.cli.document import print_document

        print_document({"run_id": run.id, "held": not release, "reason": said})
    else:
        print(f"Run {run.id[:8]} {'may be purged again' if release else 'is held'}.")
    return 0


def _show(holds: "list[Hold]", *, as_json: bool) -> None:
    if as_json:
        from custody.cli.document import print_document

        print_document({"items": holds, "next": None})
        return
    from custody.cli.asking import say_nothing_found
    from custody.cli.render import ago, flexible, table

    if not holds:
        say_nothing_found("run is held")
        return
    table(
        ["run", "since", flexible("why")],
        [[hold.run_id[:8], ago(hold.held_at) or "", hold.reason or ""] for hold in holds],
    )
