"""The policies of this place, and the one of a file somebody names, as the commands about them need them.

Owns nothing but the joining: where policies stand is `policy_files`', what they say is `policy`'s. Used by
`pause` and the commands below `custody policy`.
"""

import os
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from custody.errors import InvalidInput, UsageError
from custody.policy import Layer
from custody.policy_files import (
    PROJECT_FOLDER,
    SETTINGS_FILE,
    PolicyFile,
    policy_files,
    read_layers,
)

if TYPE_CHECKING:
    from custody.settings import Settings

Kind = Literal["organisation", "user", "project"]


class Policies(Struct, frozen=True, kw_only=True):
    """What stands for calls made here."""

    files: tuple[PolicyFile, ...]
    """Every place that is looked at, the highest first."""
    layers: tuple[Layer, ...]
    """What the files say that are there, and the built-in policy where it holds."""


def policies_here(settings: "Settings") -> Policies:
    from custody.policy.builtin import with_built_in
    from custody.settings import user_settings_path

    files = policy_files(settings.cwd, user_settings_path())
    return Policies(files=files, layers=with_built_in(settings.policy_layers))


def named_policy(path: str, kind: Kind | None = None) -> Layer:
    """The policy of one file, as of that kind; unsaid, as its place says.

    Raises InvalidInput, InvalidPolicy.
    """
    if not os.path.exists(path):
        raise InvalidInput(f"There is no file {path}.")
    if os.path.isdir(path):
        raise InvalidInput(f"{path} is a folder.", hint="Name one file of policy.")
    file = place_of(path, kind)
    (layer,) = read_layers([file], lambda _path, _digest: True)
    return layer


def place_of(path: str, kind: Kind | None = None) -> PolicyFile:
    """A file as a place of policy: a `custody.toml` has it under `[policy]`. Unsaid, what lies in a project's
    folder of policies is a project's, and anything else a user's."""
    whole = os.path.realpath(path)
    in_project = os.path.dirname(whole).endswith(os.sep + PROJECT_FOLDER)
    section = os.path.basename(whole) == SETTINGS_FILE
    return PolicyFile(kind=kind or ("project" if in_project else "user"), path=path, section=section)


def project_files(policies: Policies, wanted: str | None) -> tuple[PolicyFile, ...]:
    """The project's files there are, or the one of them that is named. Raises UsageError."""
    files = tuple(file for file in policies.files if file.kind == "project")
    if wanted is None:
        return files
    path = os.path.realpath(wanted)
    named = tuple(file for file in files if os.path.realpath(file.path) == path)
    if not named:
        raise UsageError(
            f"{wanted} is no policy of the project here.",
            hint=f"A project's are {SETTINGS_FILE} and {PROJECT_FOLDER}/*.toml in the nearest folder above.",
        )
    return named
