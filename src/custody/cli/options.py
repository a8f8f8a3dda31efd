"""Options that several commands share, and how their text becomes a value.

Owns the spelling of durations, times and environment variables on the command line, and the way from
options to settings. Used by the command modules.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from custody.cli.invocation import Invocation

if TYPE_CHECKING:
    from custody.policy import Layer
    from custody.settings import Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}

LEVELS = ("process", "confined", "transaction")
SANDBOXES = ("read_only", "workspace", "network", "open")
AFTERWARDS = ("discard", "hold", "ask", "commit_if_passed", "commit")
"""The choices of a call, spelled out as loading what knows them would take longer than most commands."""

PAGE_ITEMS = 50
PAGE_ITEMS_MAX = 1_000  # the index gives no larger page


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  (generic from click 8.4 on)
    """Seconds, or a number with a unit; 0 and `none` mean no limit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        if value.lower() == "none":
            return 0.0
        seconds = seconds_of(value)
        if seconds is None:
            self.fail(f"'{value}' is not a duration; write seconds, or 500ms, 90s, 2m, 1h, none.", param, ctx)
        return seconds


class Moment(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A point in time: RFC 3339, a local date or time, or how long ago. Microseconds since 1970 UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        import time
        from datetime import datetime

        ago = seconds_of(value.removesuffix(" ago"))
        if ago is not None and not value.isdigit():
            return round((time.time() - ago) * 1e6)
        try:
            return round(datetime.fromisoformat(value).astimezone().timestamp() * 1e6)
        except (ValueError, OverflowError):
            self.fail(
                f"'{value}' is not a time; write 2h (ago), 2026-05-01 or 2026-05-01T12:00:00Z.", param, ctx
            )


class Variable(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """NAME=VALUE, or NAME for the value it has here."""

    name = "variable"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, given, text = value.partition("=")
        if not name:
            self.fail(f"'{value}' names no variable; write NAME=VALUE.", param, ctx)
        if given:
            return name, text
        if name not in os.environ:
            self.fail(f"{name} is not set here; write {name}=VALUE.", param, ctx)
        return name, os.environ[name]


def seconds_of(text: str) -> float | None:
    """`1.5`, `500ms`, `2m` in seconds; None for anything else."""
    number = text.strip().lower().rstrip("usmhd")
    unit = text.strip().lower()[len(number) :]
    try:
        seconds = float(number) * UNIT_SECONDS[unit]
    except (ValueError, KeyError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _remember_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Invocation).json = value
    return value


def json_option(decorated: Decorated) -> Decorated:
    """`--json`. Read before every other option, so that their errors are JSON too."""
    return _json_option("One JSON document on standard output.")(decorated)


def json_lines_option(decorated: Decorated) -> Decorated:
    """`--json` of a command that goes on: a document for each record."""
    return _json_option("One JSON document a line on standard output.")(decorated)


def _json_option(text: str) -> Callable[[Decorated], Decorated]:
    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_remember_json, help=text)


def store_option(decorated: Decorated) -> Decorated:
    return click.option(
        "--store", metavar="FOLDER", help="The store to use [env: CUSTODY_STORE; else your own]."
    )(decorated)


def page_options(decorated: Decorated) -> Decorated:
    """`--limit` and `--cursor` of a list."""
    decorated = click.option(
        "--cursor", metavar="TEXT", help="Go on where `next` of the page before points."
    )(decorated)
    return click.option(
        "--limit", type=click.IntRange(1, PAGE_ITEMS_MAX), default=PAGE_ITEMS, show_default=True,
        help="At most so many.",
    )(decorated)  # fmt: skip


ACT_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "run": click.option(
        "--run", "run_name", metavar="NAME|ID",
        help="Join this run, or start one so named; it ends with the shell or script that started it.",
    ),
    "session": click.option(
        "--session", metavar="NAME", help="The session the run belongs to; opened when new."
    ),
    "agent": click.option("--agent", metavar="NAME", help="Which agent acts."),
    "caller": click.option("--caller", metavar="NAME", help="On whose behalf."),
    "intent": click.option(
        "--intent", metavar="TEXT", help="What the run is for; `call` makes one by it."
    ),
    "timeout": click.option(
        "--timeout", type=Duration(), metavar="TIME",
        help="Deadline: seconds, 500ms, 2m; 0 for none [default: as the settings say, else 30 s].",
    ),
    "level": click.option(
        "--level", type=click.Choice(LEVELS),
        help="What its command may reach: all that you may, what walls let through, or that with its changes "
        "held until you commit them [default: process].",
    ),
    "afterwards": click.option(
        "--afterwards", type=click.Choice(AFTERWARDS),
        help="What becomes of held changes; means transaction [default: as set, else hold].",
    ),
    "sandbox": click.option(
        "--sandbox", type=click.Choice(SANDBOXES),
        help="Which walls, as in --sandbox read_only; means confined [default: as set, else workspace].",
    ),
    "cwd": click.option("--cwd", metavar="FOLDER", help="Where it runs [default: here]."),
    "root": click.option(
        "--root", "roots", multiple=True, metavar="FOLDER",
        help="Also allow this folder, and below (repeatable).",
    ),
    "boundary": click.option(
        "--boundary", metavar="URL",
        help="Tell this listener when the call starts and ends [env: CUSTODY_BOUNDARY_URL].",
    ),
    "dry_run": click.option(
        "--dry-run", is_flag=True,
        help="Check and record, but run nothing; at level transaction: run it, tell and drop its changes.",
    ),
    "store": store_option,
    "json": json_option,
}  # fmt: skip
"""What a call may be told, by name."""


def act_options(*names: str) -> Callable[[Decorated], Decorated]:
    """Those options of a call, in the order in which its help shows them."""

    def decorate(decorated: Decorated) -> Decorated:
        for name in reversed(names):
            decorated = ACT_OPTIONS[name](decorated)
        return decorated

    return decorate


def complete_id(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: ids of recent runs and calls that begin so, and names of runs."""
    from custody.stores import open_view

    try:
        with open_view(look(ctx.params.get("store"))) as view:
            runs, calls = view.index.runs(limit=PAGE_ITEMS).items, view.index.calls(limit=PAGE_ITEMS).items
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    known = [run.name for run in runs if run.name] + [found.id for found in (*runs, *calls)]
    return [word for word in dict.fromkeys(known) if word.startswith(incomplete)]


def complete_tool(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: tools that begin so."""
    from custody.tools import Registry, installed_tools

    try:
        names = Registry(installed=lambda: installed_tools(load(None).file.tools.modules)).names()
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [name for name in names if name.startswith(incomplete)]


def load(
    store: str | None,
    *,
    cwd: str | None = None,
    roots: tuple[str, ...] = (),
    skills: tuple[str, ...] = (),
    layers_of: "Callable[[str, str], tuple[Layer, ...]] | None" = None,
) -> "Settings":
    """The settings of this command line: files and environment below, options above. `layers_of` reads the
    policies; unsaid, one that cannot be used is an error.

    Raises UsageError, InvalidSetting.
    """
    from custody.errors import UsageError
    from custody.policy_files import layers_in_force
    from custody.settings import load_settings

    if store == ":memory:":
        raise UsageError(
            "A store in memory is gone when the command ends.", hint="Name a folder with --store."
        )
    try:
        return load_settings(
            store=store,
            cwd=cwd or os.getcwd(),
            roots=roots,
            skills=skills,
            layers_of=layers_of or layers_in_force,
        )
    except FileNotFoundError:
        raise UsageError("The working directory is gone.", hint="Change to a folder that exists.") from None


def look(store: str | None) -> "Settings":
    """The settings of a command that only looks, or makes no call: no policy is read, so that one that cannot
    be used keeps nobody from looking.

    Raises UsageError, InvalidSetting.
    """
    return load(store, layers_of=lambda _folder, _user_settings: ())
