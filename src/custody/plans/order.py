"""What comes after what, among numbered things: waves, circles, and the longest way.

Owns the algorithms, once for every kind of plan. Everything is a list of numbers: `before[i]` has those that
`i` comes after, each once. Linear in what it is given, and without recursion, since a plan may be one long
chain. Knows nothing of actions, ids or statuses. Used by the graph of proposals and by step plans.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence

Before = Sequence[Iterable[int]]


def behind(before: Before) -> list[list[int]]:
    """The other way round: for each those that come after it."""
    found: list[list[int]] = [[] for _ in before]
    for number, earlier in enumerate(before):
        for other in earlier:
            found[other].append(number)
    return found


def waves(before: Before) -> tuple[list[list[int]], list[int]]:
    """What comes after nothing, what is then free, and so on, each wave ascending; and those that never come
    because they wait for each other."""
    after = behind(before)
    waiting = [0] * len(after)
    for later in after:
        for number in later:
            waiting[number] += 1
    found: list[list[int]] = []
    wave = [number for number, count in enumerate(waiting) if not count]
    while wave:
        found.append(wave)
        free: list[int] = []
        for number in wave:
            for later in after[number]:
                waiting[later] -= 1
                if not waiting[later]:
                    free.append(later)
        wave = sorted(free)
    return found, [number for number, count in enumerate(waiting) if count]


def some_way_around(before: Before, left: Sequence[int]) -> list[int]:
    """A way from one of these back to itself; each of them waits for another of them."""
    among = set(left)
    trail: dict[int, int] = {}
    number = left[0]
    while number not in trail:
        trail[number] = len(trail)
        number = next(other for other in before[number] if other in among)
    return [*list(trail)[trail[number] :], number]


def way_around(before: Before, first: int, to: int | None, among: Collection[int]) -> list[int]:
    """A shortest way from `first` by what it comes after back to itself, through these alone, without `first`
    at the end; where `to` is given it goes there first. There is such a way."""
    if to is not None and to == first:
        return [first]
    found_from: dict[int, int] = {} if to is None else {to: first}
    looked_at = deque([first if to is None else to])
    while looked_at:
        number = looked_at.popleft()
        for other in before[number]:
            if other == first:
                trail = [number]
                while trail[-1] != first:
                    trail.append(found_from[trail[-1]])
                return trail[::-1]
            if other in among and other not in found_from:
                found_from[other] = number
                looked_at.append(other)
    raise AssertionError("what waits for each other has a way around")


def circles(before: Before) -> list[list[int]]:
    """Groups that wait for each other: every member comes, by way of others, after every other (strongly
    connected components of more than one member, after Tarjan). Ascending, by their first members."""
    count = len(before)
    seen = [-1] * count
    low = [0] * count
    is_open = [False] * count
    trail: list[int] = []
    found: list[list[int]] = []
    clock = 0
    for root in range(count):
        if seen[root] >= 0:
            continue
        work = [(root, iter(before[root]))]
        seen[root] = low[root] = clock
        clock += 1
        trail.append(root)
        is_open[root] = True
        while work:
            number, rest = work[-1]
            for other in rest:
                if seen[other] < 0:
                    seen[other] = low[other] = clock
                    clock += 1
                    trail.append(other)
                    is_open[other] = True
                    work.append((other, iter(before[other])))
                    break
                if is_open[other]:
                    low[number] = min(low[number], seen[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[number])
                if low[number] == seen[number]:
                    group = _taken(trail, number, is_open)
                    if len(group) > 1:
                        found.append(sorted(group))
    return sorted(found)


def _taken(trail: list[int], last: int, is_open: list[bool]) -> list[int]:
    group: list[int] = []
    while not group or group[-1] != last:
        group.append(trail.pop())
        is_open[group[-1]] = False
    return group


def longest_way(before: Before, in_order: Iterable[int]) -> list[int]:
    """The most of these that come one after the other, first to last; of ways as long the one listed first.
    `in_order` has each after those it comes after; what is not in it does not count."""
    length: dict[int, int] = {}
    by_way_of: dict[int, int] = {}
    for number in in_order:
        best, via = 0, -1
        for other in before[number]:
            longer = length.get(other, 0)
            if longer > best or (longer == best and longer and other < via):
                best, via = longer, other
        length[number], by_way_of[number] = best + 1, via
    if not length:
        return []
    number = min(length, key=lambda one: (-length[one], one))
    way = [number]
    while by_way_of[way[-1]] >= 0:
        way.append(by_way_of[way[-1]])
    return way[::-1]
