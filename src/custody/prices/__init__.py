"""What a model turn costs by its provider's list price.

Owns the price table that ships with Custody (`prices.toml`), the reading of a user's own, and the
arithmetic from tokens to money. A cost is never a guess: what the table does not say is None. Knows
nothing of runs, of steps or of how tokens are counted. Used by `calls`, which keeps a step's cost and the
version of the table beside it.
"""

from custody.prices.table import Prices

__all__ = ["Prices", "load_prices"]


def load_prices(path: str | None = None) -> Prices:
    """The table in this file; None: the one that ships, which is read once. May wait for a disk.

    A file with `extends = true` is asked first, and the table that ships for what it does not name. Raises
    InvalidSetting naming the file and the entry.
    """
    from custody.prices.reading import built_in_prices, read_prices  # most commands price nothing

    return built_in_prices() if path is None else read_prices(path)
