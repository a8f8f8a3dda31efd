"""Row 16: skills are listed and verified from what lies on the disk, each file of them hashed.

A thousand skills of ten kilobytes in five files each, installed in one root with a lock: as many as nobody
has. Both figures are of a warm page cache and without the start of the command.
"""

import hashlib
from pathlib import Path

from custody.records import now_us
from custody.skills import Root, Shelf, Trust, load_catalog, verify_root
from custody.skills.lock import Lock, LockEntry, lock_bytes, lock_path
from custody.skills.skill import Source
from custody.skills.tree import TreeBounds, read_tree
from harness import Measurement, Timing, arguments, interleave, report, scratch

SKILLS = 1_000
FILES = 4  # beside SKILL.md
FILE_BYTES = 2_048
LIST_MS_MAX = 300.0
VERIFY_MS_MAX = 1_000.0


def main() -> None:
    options = arguments(__doc__)
    count = SKILLS // 10 if options.quick else SKILLS
    with scratch() as folder:
        root = Root(path=str(folder / "skills"), kind="given")
        fill(Path(root.path), count)
        shelf = Shelf(roots=(root,), install_root=root.path, trust_file=str(folder / "trust.json"))
        assert len(load_catalog(shelf).skills) == count
        trust = Trust.load(shelf.trust_file)
        ways = {
            "list": lambda: load_catalog(shelf),
            "verify": lambda: verify_root(root, shelf, trust, now_us()),
        }
        timings = interleave(ways, rounds=2 if options.quick else 15, calls=1)
    measurements = [
        within(f"list {SKILLS:,} skills (10 MB), each held to its lock, p50", timings["list"], LIST_MS_MAX),
        within(f"verify {SKILLS:,} skills (10 MB), p50", timings["verify"], VERIFY_MS_MAX),
    ]
    report("skills", measurements, timings, quick=options.quick)


def within(what: str, timing: Timing, limit: float) -> Measurement:
    return Measurement(
        row=16, what=what, value=timing.p50_us / 1e3, unit="ms", target=f"≤ {limit:,.0f} ms", limit=limit
    )


def fill(root: Path, count: int) -> None:
    """A root of skills with the lock of an install."""
    entries: dict[str, LockEntry] = {}
    for number in range(count):
        name = f"skill-{number:04}-{hashlib.sha256(b'%d' % number).hexdigest()[:6]}"
        folder = root / name
        (folder / "scripts").mkdir(parents=True)
        (folder / "SKILL.md").write_text(
            f"---\nname: {name}\ndescription: Does the thing number {number}, and nothing else.\n---\n# How\n"
            + "Read the material, then run the script.\n" * 40
        )
        for file in range(FILES):
            (folder / "scripts" / f"part{file}.py").write_bytes(f"# {number} {file}\n".encode() * 170)
        tree = read_tree(str(folder), TreeBounds())
        source = Source(kind="local", location=str(folder))
        entries[name] = LockEntry(name=name, digest=tree.digest, files=tree.files, source=source)
    Path(lock_path(str(root))).write_bytes(lock_bytes(Lock(entries=entries)))


if __name__ == "__main__":
    main()
