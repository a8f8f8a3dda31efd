"""`custody token`: who may use the daemon.

Owns the words for it. What a token is and where it lies is `rpc.tokens`'. Used by the program alone.
"""

import difflib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from custody.cli.options import Duration, json_option, look, store_option
from custody.errors import CustodyError, NotRecorded, StoreReadOnly, UsageError

if TYPE_CHECKING:
    from custody.recorder import Recorder
    from custody.rpc.tokens import OnRecord, Tokens
    from custody.settings import Settings


MAKES = "makes tokens for operators and hosts"

EXPIRES_SECONDS_MAX = 100 * 365.25 * 86_400  # what is later has no date


class _Names(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  (generic from click 8.4 on)
    """Exact names, with commas between them."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value  # pyright: ignore[reportUnknownVariableType]
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            self.fail("It names none; leave the option out to allow all.", param, ctx)
        return names


class _Method(_Names):
    """Names of methods that there are."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from custody.rpc.table import TABLE

        names = super().convert(value, param, ctx)
        for name in names:
            if TABLE.get(name) is None:
                near = difflib.get_close_matches(name, [method.name for method in TABLE], n=1)
                guess = f" Did you mean {near[0]}?" if near else ""
                self.fail(f"There is no method '{name[:40]}'.{guess}", param, ctx)
        return names


@click.group("token", epilog="Example:  custody token create ada --agent ada --tools echo,file_read --json")
def token_command() -> None:
    """Say who may use the daemon, and as whom."""


@token_command.command(
    "create",
    epilog="Example:  custody token create kim --role operator   (it is shown once, and kept nowhere)",
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["agent", "operator", "auditor", "host"]),
    default="agent",
    show_default=True,
    help="An agent acts and sees its own; an auditor sees everything and does nothing; operators and hosts "
    "act, see everything and may end any run.",
)
@click.option("--agent", metavar="ID", help="Whoever shows it is this agent, whatever it says itself.")
@click.option("--tools", type=_Names(), metavar="NAMES", help="Only these tools, by exact name: a,b,c.")
@click.option(
    "--methods",
    type=_Method(),
    metavar="NAMES",
    help="Only these methods: proposal.submit,…; nothing over HTTP.",
)
@click.option(
    "--expires", type=Duration(), metavar="TIME", help="Good for so long: 12h, 30d [default: ever]."
)
@store_option
@json_option
def create(
    name: str, role: Any, agent: str | None, tools: tuple[str, ...] | None, methods: tuple[str, ...] | None,
    expires: float | None, store: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Make a token and print it."""
    from custody.records import now_us

    if expires is not None and expires > EXPIRES_SECONDS_MAX:
        raise UsageError("--expires is a hundred years at most.", hint="Without it a token is good for ever.")
    expires_at_us = now_us() + round(expires * 1e6) if expires else None
    settings = look(store)
    if role in ("operator", "host"):
        _refuse_agents(settings, "token create")
    with _changing(settings, create=True) as (tokens, on_record):
        token, made = tokens.create(
            name, on_record, role=role, agent=agent, tools=tools, methods=methods, expires_at_us=expires_at_us
        )
    if as_json:
        _print_json({"token": token, **made.shown()})
    else:
        print(token)
    return 0


@token_command.command("list")
@store_option
@json_option
def list_tokens(store: str | None, as_json: bool) -> int:
    """Show the tokens there are: not the tokens themselves."""
    from custody.cli.invocation import message
    from custody.records import now_us
    from custody.rpc.tokens import Tokens
    from custody.stores import open_disk

    tokens = Tokens(open_disk(look(store).store, create=False)).named()
    now = now_us()
    if as_json:
        items = [
            {**each.shown(), "expired": each.expires_at_us is not None and each.expires_at_us <= now}
            for each in tokens
        ]
        _print_json({"items": items, "next": None})
        return 0
    if not tokens:
        message("no named tokens; the daemon's own are keys/serve.token and keys/host.token in the store.")
        return 0
    from custody.cli.render import flexible, table

    rows = [
        [each.name, each.role, each.agent or "any", _listed(each.tools), _listed(each.methods),
         "never" if each.expires_at_us is None
         else "expired" if each.expires_at_us <= now else each.shown()["expires_at"][:16]]
        for each in tokens
    ]  # fmt: skip
    table(["token", "role", flexible("agent"), flexible("tools"), flexible("methods"), "expires"], rows)
    return 0


def _refuse_agents(settings: "Settings", what: str) -> None:
    """Such a token answers questions: an agent must not make itself one, and where an agent cannot be ruled
    out it takes one to make another. Raises AnswerRefused, which is recorded."""
    from custody.cli.answering import TOKEN_VARIABLE, holder_of, no_agents_child, refusals_recorded
    from custody.cli.view import opened
    from custody.stores import make_recorder, open_disk

    if not os.path.isdir(settings.store):  # nothing was asked in it: here the first token comes from
        no_agents_child(None, MAKES)
        return
    with opened(settings) as view:

        def recorder() -> "Recorder":
            return make_recorder(open_disk(settings.store, create=False), view.journal, os.environ, settings)

        with refusals_recorded(recorder, what):
            if not no_agents_child(view.index, MAKES):
                holder_of(settings, os.environ.get(TOKEN_VARIABLE), MAKES)


def _listed(names: tuple[str, ...] | None) -> str:
    return "any" if names is None else ", ".join(names) or "none"


def _complete_name(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: named tokens that begin so."""
    from custody.rpc.tokens import Tokens
    from custody.stores import open_disk

    try:
        named = Tokens(open_disk(look(ctx.params.get("store")).store, create=False)).named()
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [each.name for each in named if each.name.startswith(incomplete)]


@token_command.command("revoke")
@click.argument("name", shell_complete=_complete_name)
@store_option
@json_option
def revoke(name: str, store: str | None, as_json: bool) -> int:
    """End a token: whoever is connected with it is put out within a second."""
    with _changing(look(store)) as (tokens, on_record):
        gone = tokens.revoke(name, on_record)
    if as_json:
        _print_json({"revoked": gone.name})
    else:
        print(f"The token {gone.name} is good for nothing from here on.")
    return 0


@token_command.command("renew", epilog="Whoever has the one before is put out within a second.")
@click.argument("name", type=click.Choice(["serve", "host"]), default="serve", required=False)
@store_option
@json_option
def renew(name: str, store: str | None, as_json: bool) -> int:
    """Make another of the daemon's own tokens, keys/serve.token or keys/host.token."""
    from custody.rpc.tokens import PLAIN_NAMES

    settings = look(store)
    if name == "host":
        _refuse_agents(settings, "token renew")
    with _changing(settings) as (tokens, on_record):
        tokens.renew(name, on_record)
    path = os.path.join(settings.store, PLAIN_NAMES[name][0])
    if as_json:
        _print_json({"renewed": name, "token_file": path})
    else:
        print(f"There is another token in {path}.")
    return 0


@contextmanager
def _changing(settings: "Settings", *, create: bool = False) -> Generator[tuple["Tokens", "OnRecord"]]:
    """The store's tokens, and what puts an event about them on the disk."""
    from custody.checkpoints import Sealer
    from custody.journal import Journal
    from custody.rpc.tokens import Tokens
    from custody.stores import make_recorder, open_disk

    disk = open_disk(settings.store, create=create)
    journal = Journal(disk)

    recorders: list[Recorder] = []

    def on_record(name: str, data: dict[str, Any]) -> None:
        if not recorders:
            recorders.append(make_recorder(disk, journal, os.environ, settings))
        recorders[0].event(name, data, leaf_data=True).wait_durable()

    try:
        yield Tokens(disk), on_record
        if recorders:
            with suppress(CustodyError):  # the next who writes here signs it
                Sealer(disk, journal, on_record).seal()
    except PermissionError as error:
        raise StoreReadOnly(f"The store {settings.store} cannot be written: {error.strerror}.") from None
    except OSError as error:
        raise NotRecorded(f"The tokens could not be changed: {error.strerror or error}.") from error
    finally:
        journal.close()


def _print_json(value: Any) -> None:
    from custody.cli.document import print_document

    print_document(value)
