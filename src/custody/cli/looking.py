"""Settings for commands that make no call: a policy that cannot be used keeps nobody from looking, from
answering a question, or from ending a call.

Owns which policies are left then, and the words of the warning. What may be done under such a policy is said
by the commands: whoever makes calls reads the settings with `options.load`, which refuses. Used by
`answering`, `approvals`, `call`, `pause`, `doctor` and `policy_show`.
"""

from typing import TYPE_CHECKING

from custody.cli.invocation import message
from custody.cli.options import load
from custody.errors import CustodyError, InvalidPolicy, TrustUnusable

if TYPE_CHECKING:
    from custody.policy import Layer
    from custody.settings import Settings


def load_to_look(store: str | None) -> "tuple[Settings, tuple[CustodyError, ...]]":
    """The settings with those policies that can be read, and what is wrong with the others.

    Raises UsageError, and InvalidSetting for settings that are none.
    """
    unusable: list[CustodyError] = []

    def layers_of(folder: str, user_settings: str) -> "tuple[Layer, ...]":
        return _readable_layers(folder, user_settings, unusable)

    settings = load(store, layers_of=layers_of)
    return settings, tuple(unusable)


def load_with_warning(store: str | None) -> "Settings":
    """`load_to_look`, with a line for each policy that cannot be used."""
    settings, unusable = load_to_look(store)
    warn(unusable)
    return settings


def warn(unusable: tuple[CustodyError, ...]) -> None:
    for error in unusable:
        message(f"{error.message} No call is made here until that is put right.")


def _readable_layers(folder: str, user_settings: str, unusable: list[CustodyError]) -> "tuple[Layer, ...]":
    """What layers there are, file by file once one of them cannot be used; adds why to `unusable`."""
    from custody.policy.builtin import with_built_in
    from custody.policy_files import (
        TrustedPolicies,
        layers_in_force,
        policy_files,
        read_layers,
        read_trusted,
        says_nothing,
        trust_path,
    )

    try:
        return layers_in_force(folder, user_settings)
    except (InvalidPolicy, TrustUnusable):
        pass  # it is found again below, with all the others
    try:
        files = policy_files(folder, user_settings)
    except InvalidPolicy as error:
        unusable.append(error)
        return ()
    trusted = TrustedPolicies()
    try:
        trusted = read_trusted(trust_path(user_settings))
    except TrustUnusable as error:  # then nothing is trusted
        unusable.append(error)
    layers: list[Layer] = []
    for file in files:
        try:
            layers += read_layers([file], trusted.has)
        except InvalidPolicy as error:
            unusable.append(error)
    said = [layer for layer in layers if not says_nothing(layer)]
    return with_built_in(said) if said else ()
