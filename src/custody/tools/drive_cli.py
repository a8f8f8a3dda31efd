"""The built-in tool `drive_cli`: another coding CLI does what a prompt says, in a folder, under a deadline.

Owns which CLIs are known without being configured, how a name and a prompt become a command, and what of
its end is the answer. Further CLIs are handed in by whoever makes the tool (`compose`, from the settings).
"""

from collections.abc import Mapping
from typing import Any

from custody.errors import InvalidSetting
from custody.records import Decision, Effect, Level
from custody.sandbox import Finished
from custody.tools import tailing
from custody.tools.roots import Scope
from custody.tools.tool import Context, Ended, Keep

PROMPT = "{prompt}"

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "claude": ("claude", "-p", "--", PROMPT),
    "codex": ("codex", "exec", "--", PROMPT),
    "gemini": ("gemini", f"--prompt={PROMPT}"),
}
"""Each with the option by which it does one task and ends, and allowed no more than its own settings say."""

TIMEOUT_SECONDS = 1800.0  # such a task takes minutes; one that takes half an hour is lost in a loop

ARGUMENT_BYTES_MAX = 128 * 1024 - 1
"""Of one argument of a program: MAX_ARG_STRLEN of execve(2), without the NUL."""


class DriveCli:
    """Have a coding CLI do what a prompt says.

    Its effect is `irreversible`: an agent that is free to use the network pushes, publishes and sends, which
    nobody takes back. What it changed in the folder is told, and can be undone, all the same.
    """

    name = "drive_cli"
    effect: Effect = "irreversible"
    level: Level = "process"
    timeout_seconds: float | None = TIMEOUT_SECONDS
    keep: Keep = "full"

    def __init__(
        self,
        commands: Mapping[str, tuple[str, ...]] | None = None,
        *,
        output_tail_bytes: int = tailing.OUTPUT_TAIL_BYTES,
    ) -> None:
        """`commands` are CLIs beside, or in place of, the known ones: name, and program with arguments. The
        prompt stands for `{prompt}`; a command without it reads the prompt from its standard input.

        Raises InvalidSetting for one that has no program, or the prompt as its program.
        """
        for name, argv in (commands or {}).items():
            if not argv or PROMPT in argv[0]:
                raise InvalidSetting(f"The command of the CLI {name!r} does not begin with a program.")
        self._commands = {**COMMANDS, **(commands or {})}
        self._output_tail_bytes = output_tail_bytes
        self.description = (
            f"Have a coding CLI ({', '.join(sorted(self._commands))}) do what a prompt says, in a folder. "
            "The answer has its exit code and the end of what it printed; what it changed is told."
        )
        self.schema: Mapping[str, Any] = {
            "type": "object",
            "properties": {
                "cli": {"type": "string", "description": "Which of them."},
                "prompt": {"type": "string", "description": "What it is to do; handed over as it is."},
                **tailing.ARGUMENTS,
            },
            "required": ["cli", "prompt"],
            "additionalProperties": False,
        }

    def validate(self, arguments: Mapping[str, Any], scope: Scope) -> Decision | None:
        cli, prompt = arguments["cli"], arguments["prompt"]
        command = self._commands.get(cli)
        if command is None:
            there_is = ", ".join(sorted(self._commands))
            return Decision(
                "deny", "schema",
                f"There is no CLI {cli!r}; there is: {there_is}. `[drive_cli] commands` adds one.",
            )  # fmt: skip
        if prompt.startswith("-") and not _takes_any_text(command):
            return Decision(
                "deny", "schema",
                f"The prompt begins with `-`, which {cli} may take for an option: its command in "
                "`[drive_cli] commands` has no `--` before {prompt}.",
            )  # fmt: skip
        argv = _with_prompt(command, prompt)
        if any(len(text.encode("utf-8", "surrogateescape")) > ARGUMENT_BYTES_MAX for text in argv):
            return Decision(
                "deny", "schema",
                f"The prompt is longer than an argument of a program may be ({ARGUMENT_BYTES_MAX} bytes); a "
                "command without {prompt} in `[drive_cli] commands` reads it from its standard input.",
            )  # fmt: skip
        return tailing.check(argv, arguments, scope)

    async def execute(self, arguments: Mapping[str, Any], context: Context) -> Ended:
        cli, prompt = arguments["cli"], arguments["prompt"]
        command = self._commands[cli]
        by_stdin = not any(PROMPT in text for text in command)

        def answer(finished: Finished) -> dict[str, Any]:
            cut = finished.is_cut
            return {"cli": cli, "exit_code": None if cut else finished.exit_code}

        return await tailing.run_tailed(
            _with_prompt(command, prompt), arguments, context, answer,
            output_tail_bytes=self._output_tail_bytes,
            stdin=prompt.encode("utf-8", "surrogateescape") if by_stdin else None,
        )  # fmt: skip


def _with_prompt(command: tuple[str, ...], prompt: str) -> tuple[str, ...]:
    """The prompt stays within the argument it stands in, whatever it contains."""
    return tuple(text.replace(PROMPT, prompt) for text in command)


def _takes_any_text(command: tuple[str, ...]) -> bool:
    """Whether no prompt can become an option: each place of it is behind `--`, or inside an argument."""
    places = [place for place, text in enumerate(command) if text.startswith(PROMPT)]
    return not places or ("--" in command and command.index("--") < places[0])
