"""The highest rate whose p99 stays under a limit: bracket it, bisect, and confirm it in a longer run."""

from collections.abc import Callable
from typing import Any

import msgspec

from msal_deploy.bench.load_loop import Spacing
from msal_deploy.bench.load_results import Load, LoadResult
from msal_deploy.bench.table import RUNS_FOR_P99

PRECISION = 0.05  # of the rate: the search ends when the bracket is that narrow,
FLOOR = 1 / 64  # or that narrow in parts of the capacity
CONFIRMING_REQUESTS = 300  # 299 requests can bound a p99
CONFIRMATIONS, STEP = 3, 0.9  # runs to confirm a rate, each at a lower rate if the one before missed the limit
LONGER, LONGEST = 3, 6  # a confirming run, and the longest trial, in parts of --seconds

Serve = Callable[[Load, float, int], LoadResult]  # load, seconds, seed


class RateSearch(msgspec.Struct, frozen=True):
    """What was tried for one setting, in order.

    Attributes:
        limit_ms: Limit for p99 in ms.
        alone: One request at a time.
        full: As many requests in flight as are served at the same time; equals `alone` for most engines.
        trials: The open loops of the bisection.
        confirmations: Longer open loops with other arrivals. The last one is the answer if it meets the limit.
    """

    limit_ms: float
    alone: LoadResult
    full: LoadResult
    trials: tuple[LoadResult, ...] = ()
    confirmations: tuple[LoadResult, ...] = ()

    @property
    def loads(self) -> tuple[LoadResult, ...]:
        """All loads in the order in which they were served."""
        closed = (self.alone,) if self.full is self.alone else (self.alone, self.full)
        return (*closed, *self.trials, *self.confirmations)

    @property
    def best(self) -> LoadResult | None:
        """The confirmed load with the highest rate; None if there is none."""
        confirmed = [one for one in self.confirmations if meets(one, self.limit_ms)]
        return confirmed[-1] if confirmed else None

    @property
    def images_per_s(self) -> float:
        """Images per second at the confirmed rate; 0 if there is none."""
        return self.best.batch * (self.best.load.rate or 0.0) if self.best else 0.0

    def message(self) -> str:
        """Return the answer in a sentence or two."""
        alone, limit = self.alone, f"{self.limit_ms:g} ms"
        name = f"{alone.engine}, batch {alone.batch}"
        name += f", {alone.streams} streams" if alone.streams > 1 else ""
        p99 = alone.latency_ms["p99"]
        if p99 > self.limit_ms:
            over = f"{p99 - self.limit_ms:.1f} ms over {limit}"
            return f"{name}: even one request at a time has a p99 of {p99:.1f} ms, {over}."
        if not self.trials:
            return f"{name}: interrupted before the first rate was tried."
        if self.best is None:
            return self._failure(name, limit)
        return self._answer(name, limit, self.best)

    def _failure(self, name: str, limit: str) -> str:
        lowest = min(self.trials, key=lambda one: one.load.rate or 0.0)
        if self.confirmations:
            last = self.confirmations[-1]
            return (
                f"{name}: no rate was confirmed. The last one tried, {last.load}, had a p99 of "
                f"{last.latency_ms['p99']:.1f} ms in {len(last.counted)} requests; the limit is {limit}."
            )
        if any(meets(one, self.limit_ms) for one in self.trials):
            return f"{name}: interrupted before a rate was confirmed."
        return (
            f"{name}: one request at a time stays under {limit} (p99 {self.alone.latency_ms['p99']:.1f} ms), but "
            f"already {lowest.load} have a p99 of {lowest.latency_ms['p99']:.1f} ms."
        )

    def _answer(self, name: str, limit: str, best: LoadResult) -> str:
        p99, bound = best.latency_ms["p99"], best.p99_at_most_ms
        evidence = ", too few for a confidence bound"
        if bound is not None:
            evidence = f"; if requests were independent, at most {bound:.1f} ms with 95% confidence"
        return (
            f"{name}: {best.load} ({self.images_per_s:.4g} images/s) stay under {limit}: p99 {p99:.1f} ms in "
            f"{len(best.counted)} requests{evidence}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the search as JSON types."""
        return {
            "p99_under_ms": self.limit_ms,
            "images_per_s": self.images_per_s,
            "best": self.best.to_json() if self.best else None,
            "message": self.message(),
            "alone": self.alone.to_json(),
            "full": self.full.to_json(),
            "trials": [one.to_json() for one in self.trials],
            "confirmations": [one.to_json() for one in self.confirmations],
        }


def meets(result: LoadResult, limit_ms: float) -> bool:
    """Return whether a load was served, with its p99 at or below the limit."""
    return not result.is_saturated and result.latency_ms["p99"] <= limit_ms


def search_rate(
    serve: Serve,
    limit_ms: float,
    seconds: float,
    *,
    places: int = 1,
    spacing: Spacing = "poisson",
    keep: Callable[[RateSearch], object] = lambda search: None,
) -> RateSearch:
    """Find the highest rate whose p99 is at most `limit_ms`.

    One request at a time shows whether the limit can be met, and the highest throughput of a closed loop is the upper
    end of the bracket. Trials last at least `seconds`, and up to six times as long to have 100 requests. Each uses the
    same pattern of arrivals; the confirmation, three times as long, has another, so that it is not the trial that was
    lucky. If it misses the limit, a rate that is 10% lower is tried, twice at most.

    Args:
        serve: Serves a load for some seconds, with a seed for its arrivals.
        limit_ms: Limit for p99.
        seconds: Length of a trial.
        places: Requests that can be served at the same time.
        spacing: Of the arrivals.
        keep: Called with the search as far as it has come, after each load.
    """

    def add(search: RateSearch) -> RateSearch:
        keep(search)
        return search

    alone = serve(Load(in_flight=1), seconds, 0)
    search = add(RateSearch(limit_ms, alone, alone))
    if alone.latency_ms["p99"] > limit_ms:
        return search
    if places > 1:
        search = add(msgspec.structs.replace(search, full=serve(Load(in_flight=places), seconds, 0)))
    low, high = 0.0, max(alone.requests_per_s, search.full.requests_per_s)
    floor = FLOOR * high
    while high - low > max(PRECISION * high, floor):
        rate = (low + high) / 2
        trial = serve(Load(rate=rate, spacing=spacing), trial_seconds(rate, seconds), 0)
        search = add(msgspec.structs.replace(search, trials=(*search.trials, trial)))
        low, high = (rate, high) if meets(trial, limit_ms) else (low, rate)
    for attempt in range(CONFIRMATIONS if low else 0):
        rate = low * STEP**attempt
        longer = trial_seconds(rate, LONGER * seconds, CONFIRMING_REQUESTS)
        result = serve(Load(rate=rate, spacing=spacing), longer, 1 + attempt)
        search = add(msgspec.structs.replace(search, confirmations=(*search.confirmations, result)))
        if search.best:
            break
    return search


def trial_seconds(rate: float, seconds: float, requests: int = RUNS_FOR_P99) -> float:
    """Return how long a trial lasts: `seconds`, or longer for the given number of requests, up to six times as long.

    >>> trial_seconds(20, 10), trial_seconds(5, 10), trial_seconds(1, 10)
    (10, 20.0, 60)
    """
    return min(max(seconds, requests / rate), LONGEST * seconds)
