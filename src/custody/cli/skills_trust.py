"""`custody skills trust` and `custody skills sign`: whose word on skills counts, and giving one's own.

Owns the words for it, and that who is trusted is on the record before it counts. What a key is and where the
trusted ones are kept is `custody.skills.trust`'s. Used by `skills` alone.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from custody.cli.invocation import message, printable
from custody.cli.options import json_option, load, seconds_of, store_option
from custody.cli.skills_shelf import dir_option, place, shelf_of
from custody.errors import UsageError

if TYPE_CHECKING:
    from custody.cli.render import Cell, Row
    from custody.settings import Settings
    from custody.skills import Shelf
    from custody.skills.trust import Trust, TrustedKey

EXPIRES_SECONDS_MAX = 100 * 365.25 * 86_400  # what is later has no date
SIGNATURE_MODE = 0o644  # whoever may read a skill may know who signed it

OnRecord = Callable[[dict[str, Any]], None]


class Until(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  (generic from click 8.4 on)
    """A moment to come: how long from now, RFC 3339, or a local date or time. Microseconds since 1970 UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from custody.records import now_us

        ahead = None if value.isdigit() else seconds_of(value)
        if ahead is not None and ahead > EXPIRES_SECONDS_MAX:
            self.fail("A hundred years is the most; without it a key counts until it is revoked.", param, ctx)
        if ahead is not None:
            return now_us() + round(ahead * 1e6)
        try:
            return round(datetime.fromisoformat(value).astimezone().timestamp() * 1e6)
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is not a time; write 90d, 2027-01-01 or 2027-01-01T12:00:00Z.", param, ctx)


@click.group(
    "trust", epilog="Example:  custody skills trust add example.com/skills+1f2e3d4c+AQ… --expires 365d"
)
def trust_command() -> None:
    """Say whose signatures on skills count."""


@trust_command.command("list", epilog="Example:  custody skills trust list")
@dir_option
@json_option
def list_command(folders: tuple[str, ...], as_json: bool) -> int:
    """Show the keys there are, and which skills they signed."""
    shelf = shelf_of(folders)
    keys = _trust(shelf).keys
    signed = _signed(shelf) if keys else {}
    if as_json:
        _print_json({"items": [_shown(key, signed) for key in keys], "next": None})
        return 0
    if not keys:
        message(f"no key is trusted: there is none in {place(shelf.trust_file)}.")
        return 0
    from custody.cli.render import flexible, table

    rows: list[Row] = [
        [key.id, key.key_hash, _standing(key), _day(key.expires_at), ", ".join(signed.get(key.id, ()))]
        for key in keys
    ]
    table(["key", "hash", "standing", "expires", flexible("signed")], rows)
    return 0


@trust_command.command(
    "add", epilog="Example:  custody skills trust add example.com/skills+1f2e3d4c+AQ… --expires 365d"
)
@click.argument("vkey")
@click.option(
    "--expires", "expires_at_us", type=Until(), metavar="TIME",
    help="It counts until then: 90d, 2027-01-01 [default: until it is revoked].",
)  # fmt: skip
@dir_option
@store_option
@json_option
def add_command(
    vkey: str, expires_at_us: int | None, folders: tuple[str, ...], store: str | None, as_json: bool
) -> int:
    """Let the signatures of a key count. VKEY is the line its owner publishes."""
    settings = load(store)
    shelf = shelf_of(folders)

    def change(on_record: OnRecord) -> "Trust":
        return _trust(shelf).add(vkey, expires_at_us, on_record=on_record)

    key = asyncio.run(_changed(settings, "skills.trusted", change)).keys[-1]
    signed = _signed(shelf)
    if as_json:
        _print_json(_shown(key, signed))
        return 0
    until = "until it is revoked" if key.expires_at is None else f"until {key.expires_at}"
    print(f"The signatures of {key.id} ({key.key_hash}) count {until}.")
    _say_signed(signed.get(key.id, ()), "It signed")
    return 0


def _complete_key(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: ids of keys that begin so."""
    try:
        keys = _trust(shelf_of(ctx.params.get("folders") or ())).keys
    except Exception:  # whatever is wrong, the shell has nobody to tell it to
        return []
    return [key.id for key in keys if key.id.startswith(incomplete)]


@trust_command.command("revoke", epilog="Example:  custody skills trust revoke example.com/skills")
@click.argument("key_id", metavar="ID", shell_complete=_complete_key)
@dir_option
@store_option
@json_option
def revoke_command(key_id: str, folders: tuple[str, ...], store: str | None, as_json: bool) -> int:
    """Let no signature of a key count any more."""
    settings = load(store)
    shelf = shelf_of(folders)
    _trust(shelf).key(key_id)  # nothing is put on the record of a key that there is not
    signed = _signed(shelf)

    def change(on_record: OnRecord) -> "Trust":
        return _trust(shelf).revoke(key_id, on_record=on_record)

    key = asyncio.run(_changed(settings, "skills.distrusted", change)).key(key_id)
    if as_json:
        _print_json(_shown(key, signed))
        return 0
    print(f"No signature of {key.id} ({key.key_hash}) counts from here on.")
    _say_signed(signed.get(key.id, ()), "It had signed")
    return 0


@trust_command.command(
    "new-key", epilog="Example:  custody skills trust new-key ~/keys/skills.pem --name example.com/skills"
)
@click.argument("file", type=click.Path())
@click.option(
    "--name", "key_name", metavar="KEYNAME", required=True, help="What the key is called wherever it signs."
)
@json_option
def new_key_command(file: str, key_name: str, as_json: bool) -> int:
    """Make a key to sign skills with.

    Printed is the line by which others trust it.
    """
    from custody.skills.signing import new_private_key, verifier_line
    from custody.skills.trust import check_key_name

    check_key_name(key_name)  # before there is a key that could have no line
    vkey = verifier_line(new_private_key(file), key_name)
    if as_json:
        _print_json({"key_file": os.path.abspath(file), "key_id": key_name, "vkey": vkey})
    else:
        print(vkey)
        message(f"{place(os.path.abspath(file))} is the private half: keep it to yourself.")
    return 0


@click.command(
    "sign", epilog="Example:  custody skills sign ./pdf --key ~/keys/skills.pem --name example.com/skills"
)
@click.argument("folder", type=click.Path())
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    type=click.Path(),
    required=True,
    help="The private key, as PEM (Ed25519).",
)
@click.option(
    "--name",
    "key_name",
    metavar="KEYNAME",
    help="What the key is called [default: as where it is trusted here].",
)
@dir_option
@json_option
def sign_command(
    folder: str, key_file: str, key_name: str | None, folders: tuple[str, ...], as_json: bool
) -> int:
    """Sign a skill: a folder, or one .md file.

    The signature lies beside them (SKILL.sig, NAME.md.sig). Any later change of a file makes it one of other
    files.
    """
    from custody.cli.outgoing import outgoing
    from custody.skills.content import read_content
    from custody.skills.lock import SKILL_SUFFIX
    from custody.skills.signing import read_private_key, sign_tree, signature_path, verifier_line

    shelf = shelf_of(folders)
    place_of_skill = os.path.abspath(folder)
    content = read_content(place_of_skill, shelf.bounds)
    said = content.front_matter()  # what nobody would offer is not signed either
    private_key = read_private_key(key_file)
    name = key_name or _name_of(private_key, shelf)
    skill = said.name or os.path.basename(place_of_skill).removesuffix(SKILL_SUFFIX)
    path = signature_path(place_of_skill, "folder" if os.path.isdir(place_of_skill) else "file")
    data = sign_tree(content.tree.digest, skill, private_key, name, beside=content.signature)
    with outgoing(path, force=True) as file:
        file.write(data)
        os.fchmod(file.fileno(), SIGNATURE_MODE)
    vkey = verifier_line(private_key, name)
    if as_json:
        _print_json(
            {
                "name": skill,
                "digest": content.tree.digest,
                "signature_file": path,
                "key_id": name,
                "vkey": vkey,
            }
        )
    else:
        print(f"{printable(skill)} is signed: {place(path)}")
        message(f"others trust the key with: custody skills trust add {vkey}")
    return 0


def _name_of(private_key: bytes, shelf: "Shelf") -> str:
    """What this key is called among the trusted ones. Raises UsageError."""
    from custody.skills.signing import verifier_line

    for key in _trust(shelf).keys:
        if verifier_line(private_key, key.id) == key.vkey:
            return key.id
    raise UsageError("Nobody knows what this key is called.", hint="Say it: --name example.com/skills.")


async def _changed(settings: "Settings", name: str, change: Callable[[OnRecord], "Trust"]) -> "Trust":
    """Change who is trusted, with the event of this name durable on the record. Raises NotRecorded."""
    from custody.compose import open_runtime

    runtime = await open_runtime(settings, door="cli")
    recorder = runtime.ledger.recorder

    def on_record(said: dict[str, Any]) -> None:
        recorder.event(name, said, leaf_data=True).wait_durable()

    try:
        return await asyncio.to_thread(change, on_record)
    finally:
        await runtime.close()


def _trust(shelf: "Shelf") -> "Trust":
    from custody.skills import Trust

    return Trust.load(shelf.trust_file)


def _signed(shelf: "Shelf") -> dict[str, list[str]]:
    """By key, the skills its valid signatures are on."""
    from custody.skills import answers

    signed: dict[str, list[str]] = {}
    for item in answers.list_skills(shelf).items:
        if item.signed_by is not None:
            signed.setdefault(item.signed_by, []).append(item.name)
    return signed


def _say_signed(names: "list[str] | tuple[()]", begin: str) -> None:
    if names:
        message(f"{begin}: {', '.join(names)}.")


def _shown(key: "TrustedKey", signed: dict[str, list[str]]) -> dict[str, Any]:
    from custody.records import document, now_us

    return {**document(key), "standing": key.standing(now_us()), "signed": signed.get(key.id, [])}


def _standing(key: "TrustedKey") -> "Cell":
    from custody.cli.render import Cell
    from custody.records import now_us

    standing = key.standing(now_us())
    return Cell(standing, "green" if standing == "trusted" else "red")


def _day(text: str | None) -> str:
    from custody.cli.render import moment

    at = moment(text)
    return "never" if at is None else at.strftime("%Y-%m-%d %H:%M")


def _print_json(value: Any) -> None:
    from custody.cli.document import print_document

    print_document(value)
