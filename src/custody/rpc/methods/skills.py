"""`skills.*`: the skills of the place this daemon serves.

Owns who may ask, and that a connection has one question at a time answered from the disk. The answers and
their shapes are `custody.skills.answers`'; installing, removing and running are tools, and come as calls.
"""

from typing import Annotated

from msgspec import Meta, Struct

from custody.rpc import jsonrpc
from custody.rpc.errors import RpcError
from custody.rpc.events import current_run
from custody.rpc.method import ACTING, NoParams, method
from custody.rpc.peer import Peer
from custody.rpc.sight import apart
from custody.skills import Shelf, answers

LIMIT_MAX = 1_000  # as of any list

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class SkillName(Struct, frozen=True, kw_only=True):
    """Which skill."""

    name: Name


class SkillsSearchParams(Struct, frozen=True, kw_only=True):
    """Words that are all found in a skill, and how many skills are wanted at most."""

    query: str
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = answers.FOUND_MAX


def shelf_of(peer: Peer) -> Shelf:
    """Where this daemon's skills are. Raises RpcError where it has none."""
    shelf = peer.service.shelf
    if shelf is None:
        raise RpcError(jsonrpc.CAPABILITY, "This daemon serves no skills.", {"missing": ["skills"]})
    return shelf


@method("skills.list")
async def skills_list(peer: Peer, params: NoParams) -> answers.SkillsList:
    """Every skill that is offered, and what is the matter with others."""
    del params
    shelf = shelf_of(peer)
    return await apart(peer, lambda: answers.list_skills(shelf))


@method("skills.search")
async def skills_search(peer: Peer, params: SkillsSearchParams) -> answers.SkillsFound:
    """The skills that fit some words best, the best first."""
    shelf = shelf_of(peer)
    return await apart(peer, lambda: answers.search_skills(shelf, params.query, params.limit))


@method("skills.info")
async def skills_info(peer: Peer, params: SkillName) -> answers.SkillInfo:
    """What is known of a skill, and how its text begins."""
    shelf = shelf_of(peer)
    return await apart(peer, lambda: answers.skill_info(shelf, params.name))


@method("skills.read", roles=ACTING)
async def skills_read(peer: Peer, params: SkillName) -> answers.SkillText:
    """The text of a skill, once it is on the record which version of it was given to whom."""
    shelf, run = shelf_of(peer), current_run(peer)
    handle = None if run is None else run.handle
    async with peer.service.live.alone(("skills.read", peer.connection)):
        return await answers.read_skill(peer.service.runtime, shelf, params.name, handle, peer.agent)


@method("skills.verify")
async def skills_verify(peer: Peer, params: NoParams) -> answers.SkillsVerified:
    """What differs from the lock files."""
    del params
    shelf = shelf_of(peer)
    return await apart(peer, lambda: answers.verify_skills(shelf))


METHODS = (skills_list, skills_search, skills_info, skills_read, skills_verify)
