"""Record every call of a function, without touching its callers.

Run it, then look:  custody calls --tool convert
"""

import asyncio

import custody


@custody.observed(effect="read")
def convert(amount: float, rate: float) -> float:
    return amount * rate


@custody.observed
async def fetch_rate(currency: str) -> float:
    if currency != "EUR":
        raise LookupError(f"no rate for {currency}")
    return 1.07


async def main() -> None:
    async with custody.open() as runtime, runtime.run("convert money", agent="teller") as run:
        rate, failed = await asyncio.gather(fetch_rate("EUR"), fetch_rate("XYZ"), return_exceptions=True)
        print(convert(100, rate=rate), repr(failed))
        print(run.totals.calls_by_outcome)


if __name__ == "__main__":
    asyncio.run(main())
