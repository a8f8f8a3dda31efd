"""Where a secret may come in from a Python program: each place plants one secret, through either face."""

import base64
import enum
import json
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec
from pydantic import BaseModel
from tests.evidence.planting import KNOWN, Secret

import custody
from custody.errors import CustodyError

Place = Callable[[Any, Any, Secret], Awaitable[None]]

PLACES: dict[str, Place] = {}
"""Name -> what plants a secret there, given the runtime and an open run."""


def place(function: Place) -> Place:
    PLACES[function.__name__.replace("_", " ")] = function
    return function


# -- tools and values ----------------------------------------------------------------------------------------


@custody.tool(effect="read")
def look(what: Any) -> None: ...


@custody.tool(effect="read")
def give(key: int) -> Any:
    return _given[key]


_given: dict[int, Any] = {}


async def gives(run: Any, value: Any) -> None:
    """A call whose result is this value, which is not among its arguments."""
    _given[0] = value
    await run.call(give, {"key": 0})


@dataclass
class Credentials:
    user: str
    note: str
    hidden: str = field(repr=False)


class Frozen(msgspec.Struct, frozen=True):
    note: str


class Model(BaseModel):
    note: str


class Slotted:
    __slots__ = ("note",)

    def __init__(self, note: str) -> None:
        self.note = note

    def __repr__(self) -> str:
        return f"<Slotted {self.note}>"


class Text(str): ...


class Failure(Exception):
    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


Pair = namedtuple("Pair", "left right")


def values_of(secret: Secret) -> dict[str, Any]:
    """The text in values of every type that programs pass around."""
    text = secret.text
    data = text.encode()
    values = {
        "text": text,
        "within": f"before {text} after",
        "within lines": f"one\ntwo {text}\nthree",
        "list": [1, [text]],
        "tuple": (text, (text,)),
        "deep": {"a": {"b": [{"c": text}]}},
        "key": {text: 1},
        "key below": {"a": [{f"k {text}": {"x": 1}}]},
        "number as key": {1: text, None: text},
        "bytes": data,
        "bytes within": b"\xff\x00" + data + b"\xfe",
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "bytes as key": {data: 1},
        "dataclass": Credentials("bob", text, text),
        "struct": Frozen(text),
        "model": Model(note=text),
        "object": Slotted(text),
        "subclass of str": Text(text),
        "enum": enum.Enum("Colour", {"RED": text}).RED,
        "set": {text},
        "frozenset": frozenset({text}),
        "pair": Pair(text, 1),
        "ordered": OrderedDict(a=text),
        "path": PurePosixPath("/srv") / (text if "//" not in text else "as text"),
        "class": type("Thing", (), {"__repr__": lambda self: text})(),
        "surrogates": f"\udc80{text}\udc81",
        "many": [f"{number} {text}" for number in range(3)],
        "generator": (part for part in [text]),
    }
    if secret.value not in KNOWN.values() or secret.value.isalnum():
        values |= {  # a known value is looked for in one spelling over it, not in a spelling of a spelling
            "exception": Failure(text, more=text),
            "JSON": msgspec.json.encode({"v": text}).decode(),
            "JSON in JSON": msgspec.json.encode({"v": msgspec.json.encode([text]).decode()}).decode(),
            "repr": repr({"v": text}),
        }
    return values


def written(secret: Secret) -> dict[str, str]:
    """The text in whatever people and programs put around it, and as they encode it."""
    text = secret.text
    data = text.encode()
    lines = text.split("\n")
    return {
        "quoted": f"'{text}' \"{text}\" `{text}` <{text}> ({text}) [{text}], {text}, {text};",
        "marked": f"**{text}** <b>{text}</b> “{text}” —{text}— \u00a0{text}\u00a0",
        "coloured": f"\x1b[31m{text}\x1b[0m",
        "ends": f"\0{text}\0\t{text}\r\n{text}",
        "log": f"2026-05-01T12:00:00.000Z INFO app.main - {text} - done in 12 ms",
        "diff": "\n".join(f"+{line}" for line in lines),
        "numbered": "\n".join(f"{number}: {line}" for number, line in enumerate(lines, 1)),
        "indented": "\n".join(f"        {line}" for line in lines),
        "JSON twice": json.dumps(json.dumps({"said": text})),
        "base64": base64.b64encode(data).decode(),
        "base64, a byte before": f"data: {base64.b64encode(b'x ' + data + b' y').decode()}\n",
        "base64url": base64.urlsafe_b64encode(b"user " + data).decode().rstrip("="),
        "hex": data.hex(),
        "URL": f"https://example.com/?x={quote(text, safe='')}&y=1",
    }


@place
async def whatever_stands_around_it(runtime: Any, run: Any, secret: Secret) -> None:
    if secret.value in KNOWN.values():  # the spellings of these are a test of their own
        return
    for text in written(secret).values():
        async with run.observe("search", {"q": text}) as call:
            call.result = {"lines": text.split("\n")}
        run.step(text, model=text)


@place
async def arguments_of_a_call(runtime: Any, run: Any, secret: Secret) -> None:
    for value in values_of(secret).values():
        with suppress(CustodyError):
            await run.call(look, {"what": value})


@place
async def result_of_a_call(runtime: Any, run: Any, secret: Secret) -> None:
    for value in values_of(secret).values():
        await gives(run, value)


@place
async def arguments_and_result_of_an_observed_call(runtime: Any, run: Any, secret: Secret) -> None:
    for value in values_of(secret).values():
        async with run.observe("search", {"q": value}) as call:
            call.result = value
    async with run.observe("search", {secret.text: secret.text}, external_id=secret.text) as call:
        call.result = secret.text


@place
async def arguments_that_do_not_fit(runtime: Any, run: Any, secret: Secret) -> None:
    await run.call("exec", {"argv": secret.text})
    await run.call("exec", {"argv": ["true"], "env": {"A": [secret.text]}})
    await run.call("exec", {"argv": ["true"], secret.text: 1})
    await run.call("file_read", {"path": "x", "encoding": secret.text})
    await run.call("git", {"operation": secret.text})
    await run.call("process_kill", {"pid": secret.text})


# -- errors --------------------------------------------------------------------------------------------------


@custody.tool(effect="read")
def fail(key: int) -> None:
    raise _given[key]


async def fails(run: Any, error: BaseException) -> None:
    _given[1] = error
    await run.call(fail, {"key": 1})
    with suppress(Exception):
        async with run.observe("search", {}):
            raise error


@place
async def errors(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    await fails(run, ValueError(text))
    await fails(run, ValueError(f"could not use {text!r} today"))
    await fails(run, KeyError(text))
    await fails(run, OSError(2, "No such file", text))
    await fails(run, UnicodeDecodeError("utf-8", text.encode(), 0, 1, text))
    await fails(run, Failure("no", more=text))
    await fails(run, ExceptionGroup(text, [ValueError(text), ExceptionGroup("b", [OSError(text)])]))
    chained = RuntimeError(f"while using {text}")
    chained.__cause__ = chained.__context__ = ValueError(text)
    chained.add_note(f"the value was {text}")
    await fails(run, chained)
    await fails(run, type("Odd", (Exception,), {"__str__": lambda self: text})())


@place
async def results_that_say_they_failed(runtime: Any, run: Any, secret: Secret) -> None:
    for error in (secret.text, {"message": secret.text}, [secret.text], Failure(secret.text)):
        await gives(run, {"error": error, "success": False})
    async with run.observe("search", {}) as call:
        call.fail(f"it said {secret.text}", type=secret.text)
    async with run.observe("search", {}) as call:
        call.reject(f"it said {secret.text}", rule=secret.text)
    run.error(f"it said {secret.text}", more=secret.text)
    run.error(Failure(secret.text))


# -- runs, steps and events ------------------------------------------------------------------------------


@place
async def what_a_run_is_started_with(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    for said in (text, f"before {text} after"):
        async with runtime.run(
            said, name=said, agent=said, caller=said, session=said, client=said, channel=said, user=said,
            host=said, workspace=said, external_id=said, outcome_description=said,
            inputs={"a": said}, labels={"team": said, said: "x"},
        ) as other:  # fmt: skip
            await other.call(look, {"what": 1}, external_id=said)
            with suppress(CustodyError):
                async with other.child(said, agent=said) as child:
                    child.event("begun")


@place
async def what_a_run_ends_with(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    for said in (text, f"before {text} after"):
        async with runtime.run("end") as other:
            await other.finish(said, output={"said": said}, reason=said, totals={"cost": said, said: 1})
        async with runtime.run("end") as other:
            await other.finish(said, reason=said, output=said)
    with suppress(Failure):
        async with runtime.run("raise"):
            raise Failure(text)
    late = runtime.run("late")
    async with late:
        await late.finish()
        late.step(text, model=text)
        late.event(text, a=text)
        with suppress(CustodyError):
            await late.call(text, {"a": text})


@place
async def a_run_that_others_join(runtime: Any, run: Any, secret: Secret) -> None:
    async with runtime.run(secret.text, name=secret.text, shared=True) as other:
        await other.call(look, {"what": secret.text})
        async with other.observe(secret.text, {"q": secret.text}):
            pass


@place
async def who_makes_a_call(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    await runtime.call(
        look, {"what": 1}, agent=text, caller=text, session=text, external_id=text, dry_run=True
    )
    async with run.observe(text, {}, external_id=text, agent=text, effect=text):
        pass
    async with run.observe(f"tool {text}", {}, parent=text, step=text, durable=True):
        pass


@place
async def tools_that_are_not_there(runtime: Any, run: Any, secret: Secret) -> None:
    await run.call(secret.text, {"a": 1})
    await run.call(f"look {secret.text}", {"a": secret.text})


@place
async def steps(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    run.step(text, data={"prompt": text}, model=text, requested_model=text, finish_reason=text,
             external_id=text, agent=text)  # fmt: skip
    run.step(f"I will now use {text} to log in.", model="m")
    run.step({"role": "assistant", "content": [{"type": "text", "text": text}]})
    json = msgspec.json.encode({"q": text, "inner": msgspec.json.encode({"q": text}).decode()}).decode()
    calls: list[Mapping[str, Any]] = [
        {"id": text, "name": text, "arguments": {"q": text}},
        {"id": "1", "name": "search", "arguments": json},
        {"id": "2", "name": "search", "arguments": f"not JSON {text}"},
        {text: text},
    ]
    run.step("Let me see.", calls=calls, tokens={text: 1, "input": text}, model_us=text)
    run.step("word " * 1_000 + text, whole_text=True)
    run.step("word " * ((2_000 - len(text) // 2) // 5) + text + " and more")
    run.step(f"{text} {text} {text}", text_characters_max=len(text) + 5)


@place
async def events(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    run.event("noted", said=text, nested={"a": [text], text: 1})
    run.event(text, said=1)
    run.event(f"app.{text}", a=text.encode())


# -- decorated functions -------------------------------------------------------------------------------------


@place
async def decorated_functions(runtime: Any, run: Any, secret: Secret) -> None:
    @custody.observed
    def plain(text: str, *more: Any, **named: Any) -> str:
        return f"{text} {more} {named}"

    @custody.observed(tool=secret.text)
    def named(text: str) -> str:
        raise Failure(text)

    @custody.observed
    def stream(text: str) -> Any:
        yield text
        yield f"more {text}"

    plain(secret.text, secret.text, x=secret.text)
    with suppress(Failure):
        named(secret.text)
    list(stream(secret.text))


# -- commands ------------------------------------------------------------------------------------------------


@place
async def commands(runtime: Any, run: Any, secret: Secret) -> None:
    text = secret.text
    show = 'printf "%s" "$SHOWN"; printf "%s" "$SHOWN" >&2'
    await run.call("exec", {"argv": ["echo", text]})
    await run.call("exec", {"argv": ["cat"], "stdin": f"one\n{text}\ntwo"})
    await run.call("exec", {"argv": ["sh", "-c", show + "; exit 3"], "env": {"SHOWN": text}})
    await run.call("shell", {"command": f"printf %s {text!r}"})
    await run.call("exec", {"argv": [text]})
    await run.call("exec", {"argv": ["true"], "env": {"A_B": text, "X": f"see {text}"}})


@place
async def commands_that_encode(runtime: Any, run: Any, secret: Secret) -> None:
    for command in ("base64 -w0", "base64", "od -An -v -tx1 | tr -d ' \\n'"):
        shell = f'printf %s "$SHOWN" | {command}'
        shown = secret.value if secret.value in KNOWN.values() else secret.text
        await run.call("exec", {"argv": ["sh", "-c", shell], "env": {"SHOWN": shown}})


def made_folder(name: str) -> str:
    path = Path(name).absolute()
    path.mkdir(exist_ok=True)
    return str(path)


@place
async def folders_of_commands(runtime: Any, run: Any, secret: Secret) -> None:
    name = file_name(secret)
    await run.call("exec", {"argv": ["true"], "cwd": f"/{secret.text}"})
    await run.call("exec", {"argv": ["pwd"], "cwd": made_folder(name)})


# -- files ---------------------------------------------------------------------------------------------------


def number_of(secret: Secret) -> int:
    """Tells secrets apart in names that have nothing of them."""
    return zlib.crc32(secret.text.encode())


def file_name(secret: Secret) -> str:
    """The secret as a file's name, where it can be one."""
    text = secret.text if len(secret.text) <= 200 else secret.value
    return text if "/" not in text and len(text) <= 200 else "an ordinary name"


@place
async def contents_of_files(runtime: Any, run: Any, secret: Secret) -> None:
    text = f"# settings\n{secret.text}\nport = 1\n"
    path = f"contents-{number_of(secret)}.conf"
    await run.call("file_write", {"path": path, "content": text})
    await run.call("file_read", {"path": path})
    await run.call("file_read", {"path": path, "encoding": "base64"})
    await run.call("file_search", {"pattern": "settings", "path": path, "context_lines": 3})
    await run.call("file_search", {"pattern": secret.text, "literal": True, "path": "."})
    await run.call("file_edit", {"path": path, "edits": [{"old": "port = 1", "new": secret.text}]})
    await run.call("file_edit", {"path": path, "edits": [{"old": f"not {secret.text}", "new": "x"}]})
    encoded = base64.b64encode(text.encode()).decode()
    await run.call("file_write", {"path": path, "content_base64": encoded})
    await run.call("file_write", {"path": path, "content": "nothing"})
    await run.call("exec", {"argv": ["sh", "-c", f"echo x >> {path}"]})
    deleted = await run.call("file_delete", {"path": path})
    await run.call("undo", {"call": deleted.id})


@place
async def names_of_files(runtime: Any, run: Any, secret: Secret) -> None:
    name = file_name(secret)
    await run.call("file_write", {"path": f"d/{name}", "content": "1"})
    await run.call("file_write", {"path": f"d/{name}", "content": "2"})
    await run.call("file_read", {"path": f"d/{name}"})
    await run.call("file_read", {"path": f"/nowhere/{name}"})
    await run.call("file_list", {"path": "d"})
    await run.call("file_search", {"pattern": "2", "path": "d"})
    await run.call("exec", {"argv": ["sh", "-c", 'for file in d/*; do echo x > "$file"; done; ls d']})
    await run.call("file_delete", {"path": "d", "recursive": True})


def made_link(name: str, target: str) -> str:
    Path(name).symlink_to(target)
    return name


@place
async def links(runtime: Any, run: Any, secret: Secret) -> None:
    name = made_link(f"link-{number_of(secret)}", file_name(secret))
    await run.call("file_list", {"path": "."})
    await run.call("file_read", {"path": name})
    await run.call("file_delete", {"path": name})


@place
async def repositories(runtime: Any, run: Any, secret: Secret) -> None:
    folder = f"repository-{number_of(secret)}"
    text = secret.text
    await run.call("exec", {"argv": ["git", "init", "-q", folder]})
    await run.call("file_write", {"path": f"{folder}/a.txt", "content": f"{text}\n"})
    for key, value in (("user.name", "Bob"), ("user.email", "bob@example.com")):
        await run.call("exec", {"argv": ["git", "-C", folder, "config", key, value]})
    await run.call("git", {"operation": "add", "path": folder, "files": ["a.txt"]})
    await run.call("git", {"operation": "diff", "path": folder, "staged": True})
    await run.call("git", {"operation": "commit", "path": folder, "message": f"Use {text}"})
    await run.call("git", {"operation": "log", "path": folder})
    await run.call("git", {"operation": "show", "path": folder})
    await run.call("git", {"operation": "branch", "path": folder, "name": file_name(secret)})
    await run.call("git", {"operation": "clone", "url": text, "path": f"{folder}-2"})
    await run.call("git", {"operation": "pull", "path": folder, "remote": text})
