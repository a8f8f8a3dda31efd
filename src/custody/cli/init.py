"""`custody init`: make the store, write settings and a policy to edit, say what to do next.

Owns the text of the settings file; that of the policy is `policy`'s. Never changes a file that is there.
"""

import os
from typing import TYPE_CHECKING, Any

import click

from custody.cli.options import json_option, load, store_option
from custody.errors import StoreUnusable

if TYPE_CHECKING:
    from custody.settings import Settings

SETTINGS_TEXT = """\
# Settings of Custody, for this user. Lines that are commented out show a default or an example.
# What may happen at all is said in policy.toml beside this file.
# docs/settings.md explains every one.

[calls]
timeout_seconds = 30             # deadline of a call that names none; 0 is none
# parallel = 64                  # calls at once; others wait
# roots = ["~/src"]              # folders commands may run in, beside the working and the temporary folder
# environment = "allow_list"     # give commands only well-known variables, or "all_but_secret"; unset: the
                                 # command line hands on all but secrets, Python only well-known ones
# limits = {{ nofile = 1024 }}     # resource limits of every command, as setrlimit(2) has them
# level = "transaction"          # agents' commands: changes held; unset: confined where this machine gives it
# afterwards = "commit_if_passed"  # of changes that are held; unset: they wait for `custody commit`

[files]                          # what the tools that work on files may touch
# protected = ["infra/*.tfvars"] # names no tool writes, beside the built-in list
# secret = ["*.tfstate"]         # names no tool reads or writes, beside the built-in list
# watch = false                  # `exec` and `shell` then do not tell which files changed

[undo]                           # what files were before a call changed them, encrypted
# days_max = 7
# bytes_max = 2_147_483_648      # all of it; the oldest goes first
held_days_max = 30               # changes that nobody commits or discards; 0 is no bound

[retention]                      # what calls said is purged beyond these; that they were made stays
days_max = 90                    # 0 is no bound
bytes_max = 10_737_418_240       # of payloads and blobs; what ended first goes first

[observe]                        # of agents that run their own tools
# on_error = "raise"             # instead of "warn": what cannot be recorded stops the agent
# secret_tools = ["crm_lookup"]  # beside the built-in ones: a step that asks for one keeps its text back
# prices = "~/prices.toml"       # a price table of your own

[redaction]                      # what is not kept, beside the built-in rules, which always hold
# rules = ["~/gitleaks.toml"]    # more kinds of secrets, in the TOML form of gitleaks

[checkpoints]                    # what is on the record, signed; kept elsewhere it shows a cut tail
# files = ["/mnt/elsewhere/custody.log"]
# commands = [["mail", "-s", "checkpoint", "audit@example.com"]]

[bundles]                        # who may take records out other than at the terminal
# callers = ["auditor"]          # of runs of their own session

[boundary]                       # a listener on this machine is told of each call
# url = "http://127.0.0.1:9718"

[serve]                          # `custody serve`: agents connect over WebSocket
# listen = "127.0.0.1:9100"
# allowed_origins = ["https://console.example"]  # web pages that may connect; without any, none

[sandbox]                        # walls around the commands of agents
# hosts = ["example.org"]        # what they reach beside package registries and this repository's remotes

[drive_cli]                      # coding CLIs that the tool drive_cli may start, beside the built-in ones
# commands = {{ mine = ["my-cli", "run", "{{prompt}}"] }}

[skills]                         # folders with a SKILL.md that agents may read and install
# roots = ["~/.agents/skills"]   # unset: .agents/skills and .claude/skills of the project and of the user
# require_signed = true          # offer and install only what a trusted key signed

[training]                       # what the MCP tool training_trigger starts; unset: it says there is none
# command = ["make", "train"]

[otel]                           # export what programs record, as OpenTelemetry
# endpoint = "http://127.0.0.1:4318"

[breaker]                        # calls are refused while the machine stands worse than this
{breaker}
"""

COMPLETION_FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/config.fish"}


@click.command("init", epilog="Example:  custody init")
@store_option
@json_option
def init_command(store: str | None, as_json: bool) -> int:
    """Make the store, a settings file and a policy to edit."""
    import asyncio

    from custody.policy_files import POLICY_FILE
    from custody.settings import user_settings_path

    settings = load(store)
    store_path = settings.store
    store_made = not os.path.exists(store_path)
    asyncio.run(_make_store(settings))
    settings_path = user_settings_path()
    settings_made = write_new(settings_path, settings_text())
    policy_path = os.path.join(os.path.dirname(settings_path), POLICY_FILE)
    policy_made = not _has_policy(settings) and write_new(policy_path, policy_text())
    shell = os.path.basename(os.environ.get("SHELL", "bash"))
    if as_json:
        from custody.cli.document import print_document

        print_document(
            {
                "store": store_path,
                "store_made": store_made,
                "settings": settings_path,
                "settings_made": settings_made,
                "policy": policy_path,
                "policy_made": policy_made,
                "completion": completion_line(shell),
            }
        )
        return 0
    print(f"{'Made' if store_made else 'Found'} the store {store_path}")
    print(f"{'Wrote' if settings_made else 'Kept'} the settings {settings_path}")
    if policy_made or os.path.exists(policy_path):
        print(f"{'Wrote' if policy_made else 'Kept'} the policy {policy_path}")
    _print_next(shell)
    return 0


def _has_policy(settings: "Settings") -> bool:
    """Whether the user has one, which may stand in the settings: a second would change what it comes to."""
    return any(layer.kind == "user" for layer in settings.policy_layers)


def write_new(path: str, text: str) -> bool:
    """Write a file of ours unless there is one; whether it was written. Raises StoreUnusable."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreUnusable(
            f"The file {path} cannot be written: {error.strerror}.",
            hint="Set CUSTODY_CONFIG to a file that can.",
        ) from None
    return True


def policy_text() -> str:
    """The policy to begin with: little is asked, and every key is there as an example."""
    from importlib import resources

    return resources.files("custody.policy").joinpath("example.toml").read_text(encoding="utf-8")


def settings_text() -> str:
    """The settings file, with the breaker's thresholds as they are by default."""
    from custody.host import BreakerThresholds

    thresholds: dict[str, Any] = {
        name: getattr(BreakerThresholds(), name) for name in BreakerThresholds.__struct_fields__
    }
    return SETTINGS_TEXT.format(
        breaker="\n".join(
            f"# {name} = {_toml(value)}" for name, value in thresholds.items() if value is not None
        )
    )


def _toml(value: Any) -> str:
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) else str(value).lower()


def completion_line(shell: str) -> str | None:
    """The line that gives this shell completion; None for a shell without."""
    if shell == "fish":
        return "_CUSTODY_COMPLETE=fish_source custody | source"
    return f'eval "$(_CUSTODY_COMPLETE={shell}_source custody)"' if shell in COMPLETION_FILES else None


async def _make_store(settings: Any) -> None:
    from custody.compose import open_runtime

    await (await open_runtime(settings, door="cli")).close()


def _print_next(shell: str) -> None:
    print("\nNext:")
    print("  custody exec -- pytest -q     run a command on the record; it looks and exits as always")
    print("  custody runs                  what has been run here")
    print("  custody policy show           what agents may do here, and where that is said")
    print("  custody install               guard coding CLIs and MCP servers that are here")
    print("  custody doctor                what this machine gives, and how it stands")
    line = completion_line(shell)
    if line is not None:
        print(f"\nFor completion in {shell}, add to {COMPLETION_FILES[shell]}:\n  {line}")
