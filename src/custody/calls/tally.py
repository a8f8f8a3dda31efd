"""What a run has done so far, counted by the process that does it.

Owns the numbers behind `run.totals`. Every change happens under one lock, so a snapshot from any thread is
of one moment; a finalizer that ends a call may come in between. Used by `run`.
"""

import threading

from custody.records import Tokens, Totals

SUM_MAX = 2**63 - 1
"""What a record and the index can hold: a sum beyond it is of miscounts, and stays there."""


class Tally:
    """The running totals of one run."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._steps = 0
        self._calls = 0
        self._by_outcome: dict[str, int] = {}
        self._tokens = [0, 0, 0, 0, 0]
        self._said = [0, 0, 0, 0, 0]
        """How many steps said each kind of tokens."""
        self._cost_nano_usd = 0
        self._without_tokens = 0
        self._without_cost = 0
        self._refused = 0
        self._dropped = 0

    def call_offered(self) -> None:
        with self._lock:
            self._calls += 1

    def call_withdrawn(self, outcome: str | None = None) -> None:
        """It could not be recorded, so it did not happen."""
        with self._lock:
            self._calls -= 1
            if outcome is not None:
                self._by_outcome[outcome] -= 1

    def call_ended(self, outcome: str) -> None:
        with self._lock:
            self._by_outcome.setdefault(outcome, 0)
            self._by_outcome[outcome] += 1

    def step(self, tokens: Tokens | None, cost_nano_usd: int | None) -> None:
        with self._lock:
            self._steps += 1
            counts = () if tokens is None else (getattr(tokens, name) for name in tokens.__struct_fields__)
            for kind, count in enumerate(counts):
                if count is not None:
                    self._tokens[kind] = min(self._tokens[kind] + count, SUM_MAX)
                    self._said[kind] += 1
            if tokens is None or (tokens.input is None and tokens.output is None):
                self._without_tokens += 1
            if cost_nano_usd is None:
                self._without_cost += 1
            else:
                self._cost_nano_usd = min(self._cost_nano_usd + cost_nano_usd, SUM_MAX)

    def refused(self) -> int:
        """Count an offer to a run that had finished; returns how many there were."""
        with self._lock:
            self._refused += 1
            return self._refused

    def dropped(self) -> None:
        with self._lock:
            self._dropped += 1

    def snapshot(self) -> Totals:
        with self._lock:
            kinds = [
                total if said or not self._steps else None
                for total, said in zip(self._tokens, self._said, strict=True)
            ]
            priced = self._steps == 0 or self._steps > self._without_cost
            return Totals(
                steps=self._steps,
                calls=self._calls,
                calls_by_outcome={name: count for name, count in self._by_outcome.items() if count},
                input_tokens=kinds[0],
                output_tokens=kinds[1],
                reasoning_tokens=kinds[2],
                cache_read_tokens=kinds[3],
                cache_write_tokens=kinds[4],
                cost_nano_usd=self._cost_nano_usd if priced else None,
                steps_without_tokens=self._without_tokens,
                steps_without_cost=self._without_cost,
                refused=self._refused,
                dropped=self._dropped,
            )

    def after_fork_in_child(self) -> None:
        """The child goes on from what the run had done when it forked."""
        self._lock = threading.RLock()
