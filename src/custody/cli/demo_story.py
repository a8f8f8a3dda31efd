"""How the demo tells its story: what happens, and each claim with its verdict.

Owns the printing and the list of claims. Used by `demo` and its chapters.
"""

from typing import Any

from custody.cli.render import paint


class Story:
    """Says what happens, checks what is claimed, and remembers whether all of it was true."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.claims: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def chapter(self, text: str) -> None:
        self.say(f"\n{paint(text, 'bold')}")

    def claim(self, text: str, held: bool, found: object = None) -> None:
        """Print the claim with its verdict."""
        self.claims.append({"claim": text, "held": held})
        mark = paint("✓", "green") if held else paint("✗", "red")
        self.say(f"  {mark} {text}" + ("" if held or found is None else f"   (found: {found})"))

    @property
    def held(self) -> bool:
        return all(claim["held"] for claim in self.claims)
