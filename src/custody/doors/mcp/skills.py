"""Skills over MCP: which there are, which fit, what is known of one, and its text.

Owns the parameters. The answers are `skills.answers`', as at every other door; a text is given once it is on
the record who was given which version. Installing, removing and running are tools of the registry.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from custody.doors.mcp.acts import ONLY_READS
from custody.doors.mcp.tool import Asked, DoorTool
from custody.errors import Denied
from custody.rpc.method import NoParams
from custody.rpc.methods import skills as wire
from custody.skills import answers


class SkillsListParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing."""


async def skills_list(asked: Asked, params: SkillsListParams) -> Any:
    del params
    return await wire.skills_list.handle(asked.caller.peer, NoParams())


class SkillsSearchParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What for."""

    query: Annotated[str, Meta(description="Words that all occur in the skill.")]
    limit: Annotated[int, Meta(ge=1, le=100, description="At most so many.")] = answers.FOUND_MAX


async def skills_search(asked: Asked, params: SkillsSearchParams) -> Any:
    wanted = wire.SkillsSearchParams(query=params.query, limit=params.limit)
    return await wire.skills_search.handle(asked.caller.peer, wanted)


class SkillsInfoParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which skill, and how much of it."""

    name: Annotated[str, Meta(min_length=1, max_length=256, description="Its exact name.")]
    text: Annotated[bool, Meta(description="Give its whole text, to be followed.")] = False


async def skills_info(asked: Asked, params: SkillsInfoParams) -> Any:
    caller = asked.caller
    if not params.text:
        return await wire.skills_info.handle(caller.peer, wire.SkillName(name=params.name))
    if caller.peer.access.role == "auditor":  # being given a text is an act, and recorded as one
        raise Denied(ONLY_READS.reason)
    shelf = wire.shelf_of(caller.peer)
    run = await caller.run()
    return await answers.read_skill(caller.runtime, shelf, params.name, run=run, agent=caller.peer.agent)


class SkillsVerifyParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing."""


async def skills_verify(asked: Asked, params: SkillsVerifyParams) -> Any:
    del params
    return await wire.skills_verify.handle(asked.caller.peer, NoParams())


TOOLS = (
    DoorTool(
        name="skills_list",
        about="List the skills that are offered here, and what keeps others back.",
        params=SkillsListParams,
        answer=skills_list,
    ),
    DoorTool(
        name="skills_search",
        about="Find the skills that fit some words, the best first.",
        params=SkillsSearchParams,
        answer=skills_search,
    ),
    DoorTool(
        name="skills_info",
        about=(
            "Show what is known of a skill: files, digest, source, signature and how its text begins; with "
            "text: true the whole text, once it is on the record which version of it was given to whom."
        ),
        params=SkillsInfoParams,
        answer=skills_info,
    ),
    DoorTool(
        name="skills_verify",
        about="Compare every skill with the lock file it was installed by, file by file.",
        params=SkillsVerifyParams,
        answer=skills_verify,
        failed=lambda answer: not answer.ok,
    ),
)
