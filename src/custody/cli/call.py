"""`custody call` and `custody cancel`.

Owns reading a tool's arguments as JSON, with the place of an error, and showing a result to a person.
"""

import json
import sys
from typing import Any

import click

from custody.cli.acting import Asked, act_interruptibly, exit_code, explanation
from custody.cli.invocation import message, printable
from custody.cli.looking import load_with_warning
from custody.cli.options import (
    ACT_OPTIONS,
    act_options,
    complete_id,
    complete_tool,
    json_option,
    store_option,
)
from custody.errors import InvalidInput
from custody.records import Call

ARGUMENTS_BYTES_MAX = 64 * 1024 * 1024  # bounds what a mistaken @file can make of memory


@click.command(
    "call",
    epilog="Example:  custody call shell --args '{\"command\": \"make test\"}' --intent 'see that it builds'",
)
@click.argument("tool", shell_complete=complete_tool)
@click.option(
    "--args", "text", metavar="JSON|@FILE|-", help="The tool's arguments, a JSON object [default: {}]."
)
@act_options(*ACT_OPTIONS)
def call_command(tool: str, text: str | None, as_json: bool, **options: Any) -> int:
    """Call a tool by name, with arguments as JSON.

    Built in: check_outcome, commit, discard, drive_cli, exec, file_delete, file_edit, file_list, file_read,
    file_search, file_write, git, http_fetch, process_kill, shell, skill_run, skills_install, skills_remove,
    undo, witness_download. What each takes is told when the arguments do not fit, and in
    docs/reference/tools.md.
    """
    import asyncio

    asked = Asked(**options)
    arguments = read_arguments(text)
    own_run = asked.intent is not None
    call = asyncio.run(act_interruptibly(asked, tool, arguments, own_run=own_run, as_recorded=as_json))
    if as_json:
        from custody.cli.document import print_document

        print_document(call)
    else:
        _print_result(call)
    return exit_code(call)


def read_arguments(text: str | None) -> dict[str, Any]:
    """The arguments given on the command line, in a file or on standard input.

    Raises InvalidInput naming line and column.
    """
    if text is None:
        return {}
    source, data = _read(text)
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidInput(f"{source} is not JSON: {error.msg} at {place}.") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{source} is not UTF-8: byte {error.start} cannot be read.") from None
    except RecursionError:
        raise InvalidInput(f"{source} is nested too deeply to be read.") from None
    except ValueError as error:
        raise InvalidInput(f"{source} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{source} is {_json_name(value)}, and a tool takes a JSON object.", hint='Write {"name": value}.'
        )
    return value  # pyright: ignore[reportUnknownVariableType]


def _read(text: str) -> tuple[str, bytes | str]:
    """What the arguments are called in a message, and the arguments."""
    if text == "-":
        return "Standard input", sys.stdin.buffer.read(ARGUMENTS_BYTES_MAX)
    if not text.startswith("@"):
        return "--args", text
    try:
        with open(text[1:], "rb") as file:
            return text[1:], file.read(ARGUMENTS_BYTES_MAX)
    except OSError as error:
        raise InvalidInput(f"{text[1:]} cannot be read: {error.strerror}.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _json_name(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")  # pyright: ignore[reportUnknownArgumentType]


def _print_result(call: Call) -> None:
    if call.result is not None:
        if isinstance(call.result, str):
            print(printable(call.result))
        else:
            import msgspec

            from custody.cli.document import encode

            print(printable(msgspec.json.format(encode(call.result), indent=2).decode()))
    text = explanation(call)
    if text is not None:
        message(f"{call.tool}: {text}")


@click.command("cancel", epilog="Example:  custody cancel 3fa9c1d2")
@click.argument("identifier", metavar="CALL|RUN", shell_complete=complete_id)
@store_option
@json_option
def cancel_command(identifier: str, store: str | None, as_json: bool) -> int:
    """End a running call, or the running calls of a run."""
    import asyncio

    cancelled = asyncio.run(_cancel(identifier, store))
    if as_json:
        from custody.cli.document import print_document

        print_document({"cancelled": cancelled})
    elif cancelled:
        for call_id in cancelled:
            print(f"Asked {call_id} to end.")
    else:
        message(f"Nothing is running under {identifier!r}.")
    return 0 if cancelled else 1


async def _cancel(identifier: str, store: str | None) -> list[str]:
    from custody.compose import open_runtime
    from custody.stores import open_disk

    settings = load_with_warning(store)  # whatever the policy, what runs can be ended
    open_disk(settings.store, create=False)  # there is nothing to end in a store that is not there
    runtime = await open_runtime(settings, door="cli")
    try:
        return await runtime.cancel(identifier)
    finally:
        await runtime.close()
