"""The result of one load: latencies with their parts, rates, and whether the engine kept up."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from msal_deploy.bench.load_loop import SECOND, Request, Served, Spacing
from msal_deploy.bench.results import Setting, square_millimetres
from msal_deploy.bench.table import RUNS_FOR_P99

CONFIDENCE = 0.95
MAX_UNFINISHED = 0.03  # share of the arrivals that may be unfinished when they end; the last one usually is
MIN_UNFINISHED = 3  # however few arrive
BUSY = 0.97  # share of the second half in which an engine that cannot keep up is busy
MAX_GENERATOR = 0.05  # CPU time of the load generator, in cores, above which it disturbs what it measures
MS = 1e6  # ns


class Load(msgspec.Struct, frozen=True):
    """What is sent to an engine: a closed loop with `in_flight` clients, or an open loop with `rate` requests/s.

    >>> str(Load(in_flight=4)), str(Load(rate=12.5))
    ('4 in flight', '12.5 requests/s')

    Attributes:
        in_flight: Clients of a closed loop; None in an open loop.
        rate: Requests per second of an open loop; None in a closed loop.
        spacing: Arrivals of an open loop: ``poisson`` or ``constant``.
    """

    in_flight: int | None = None
    rate: float | None = None
    spacing: Spacing = "poisson"

    def __str__(self) -> str:
        return f"{self.in_flight} in flight" if self.in_flight else f"{self.rate:.4g} requests/s"


class LoadResult(Setting, frozen=True, kw_only=True):
    """A setting under one load.

    >>> requests = (Request(0, 0, 4_000_000), Request(10_000_000, 10_000_000, 14_000_000))
    >>> served = Served(requests, (), duration=20_000_000, ended=20_000_000, generator=0, interrupted=False)
    >>> result = LoadResult(engine="openvino:int8", batch=2, size=(512, 512), microns_per_pixel=0.25,
    ...                     load=Load(rate=100), served=served)
    >>> result.latency_ms["p50"], result.requests_per_s, result.images_per_s, result.utilisation
    (4.0, 100.0, 200.0, 0.4)

    Attributes:
        size: Height and width of the images in pixels.
        microns_per_pixel: Side of a pixel in µm.
        load: What was sent.
        served: What became of it.
    """

    size: tuple[int, int]
    microns_per_pixel: float
    load: Load
    served: Served

    @property
    def counted(self) -> tuple[Request, ...]:
        """The requests that count: all, but in a closed loop not the first one of each client, which start at once."""
        return self.served.requests[self.load.in_flight or 0 :]

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles, mean and maximum, from the intended time of a request to its answer.

        A request that was not served counts with the time that it had waited when the load ended.
        """
        served = [one.end - one.intended for one in self.counted]
        return _summary(served + [self.served.ended - time for time in self.served.unserved])

    @property
    def service_ms(self) -> dict[str, float]:
        """The same, from the start of a call to its end: what a client that waits for the engine would see."""
        return _summary([one.end - one.start for one in self.counted])

    @property
    def queue_ms(self) -> dict[str, float]:
        """The same, from the intended time of a request to its start."""
        return _summary([one.start - one.intended for one in self.counted])

    @property
    def p99_at_most_ms(self) -> float | None:
        """An upper bound for p99; see `percentile_bound`. None with fewer than 299 requests or an unsteady load."""
        if self.is_saturated:
            return None
        return percentile_bound([(one.end - one.intended) / MS for one in self.counted], 0.99)

    @property
    def seconds(self) -> float:
        """Length of the time that `requests_per_s` refers to; in a closed loop, without the first round."""
        if self.load.rate:
            return self.served.duration / SECOND
        counted = self.counted
        return (counted[-1].end - self._first_round_ended) / SECOND if counted else 0.0

    @property
    def _first_round_ended(self) -> int:
        clients = min(self.load.in_flight or 0, len(self.served.requests))
        return self.served.requests[clients - 1].end if clients else 0

    @property
    def requests_per_s(self) -> float:
        """Achieved rate: answers per second, in an open loop until the arrivals end."""
        if not self.seconds:
            return 0.0
        answered = sum(one.end <= self.served.duration for one in self.counted)
        return answered / self.seconds

    @property
    def images_per_s(self) -> float:
        """Images per second at the achieved rate."""
        return self.batch * self.requests_per_s

    @property
    def offered_per_s(self) -> float | None:
        """Arrivals per second in an open loop; None in a closed one."""
        if not self.load.rate or not self.seconds:
            return None
        return len(self._arrivals) / self.seconds

    @property
    def _arrivals(self) -> list[int]:
        return [one.intended for one in self.served.requests] + list(self.served.unserved)

    @property
    def utilisation(self) -> float:
        """Share of the time in which at least one request was being served."""
        return busy_share(self.served.requests, 0, self.served.duration)

    @property
    def is_saturated(self) -> bool:
        """Whether an open loop offered more than the engine can serve, so that its queue grows as long as it lasts.

        That is: requests are left when the arrivals end, more of them than in the middle, and the engine was busy
        during the whole second half. Latencies then depend on how long the load lasts.
        """
        end = self.served.duration
        left = self._left(end)
        if not self.load.rate or left < max(MIN_UNFINISHED, MAX_UNFINISHED * len(self._arrivals)):
            return False
        return left > self._left(end // 2) and busy_share(self.served.requests, end // 2, end) >= BUSY

    def _left(self, time: int) -> int:
        """Return how many requests had arrived at `time` and were not finished."""
        arrived = sum(arrival <= time for arrival in self._arrivals)
        return arrived - sum(one.end <= time for one in self.served.requests)

    @property
    def generator_cores(self) -> float:
        """CPU time of the load generator per second, outside the calls of the engine."""
        return self.served.generator / self.served.ended if self.served.ended else 0.0

    def remarks(self) -> list[str]:
        """Return what a reader must know about the figures, in sentences."""
        name = f"{self.engine}, batch {self.batch}, {self.load}"
        remarks = []
        if self.is_saturated:
            left = self._left(self.served.duration)
            remarks.append(
                f"{name}: saturated. {self.requests_per_s:.4g} requests/s were served of {self.offered_per_s:.4g} "
                f"offered, and {left} of {len(self._arrivals)} were left at the end. The queue grows, so the latencies "
                "depend on the duration and are not steady."
            )
        elif len(self.counted) < RUNS_FOR_P99:
            remarks.append(
                f"{name}: {len(self.counted)} requests cannot show a p99, which is close to the slowest one with fewer "
                f"than {RUNS_FOR_P99}. Use more --seconds."
            )
        if self.generator_cores > MAX_GENERATOR:
            remarks.append(f"{name}: the load generator itself used {self.generator_cores:.0%} of a core.")
        return remarks

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        pixels_per_s = self.images_per_s * self.size[0] * self.size[1]
        return {
            "engine": self.engine,
            "batch": self.batch,
            "size": list(self.size),
            "threads": self.threads,
            "streams": self.streams,
            "in_flight": self.load.in_flight,
            "rate": self.load.rate,
            "arrivals": self.load.spacing if self.load.rate else None,
            "offered_per_s": self.offered_per_s,
            "requests_per_s": self.requests_per_s,
            "images_per_s": self.images_per_s,
            "square_millimetres_per_s": square_millimetres(pixels_per_s, self.microns_per_pixel),
            "requests": len(self.counted),
            "unserved": len(self.served.unserved),
            "seconds": self.seconds,
            "saturated": self.is_saturated,
            "latency_ms": self.latency_ms,
            "p99_at_most_ms": self.p99_at_most_ms,
            "service_ms": self.service_ms,
            "queue_ms": self.queue_ms,
            "utilisation": self.utilisation,
            "generator_cores": self.generator_cores,
            "interrupted": self.served.interrupted,
        }


def _summary(times: Sequence[int]) -> dict[str, float]:
    """Return percentiles, mean and maximum in ms of times in ns."""
    milliseconds = np.asarray(times, float) / MS
    percentiles = {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 90, 95, 99)}
    return percentiles | {"mean": float(milliseconds.mean()), "max": float(milliseconds.max())}


def percentile_bound(values: Sequence[float], share: float, confidence: float = CONFIDENCE) -> float | None:
    """Return an upper bound for a percentile of the distribution that `values` come from; None if they are too few.

    It is the smallest order statistic that is above the percentile with the given confidence, whatever the
    distribution: the largest of 299 values bounds p99 with 95%. It holds for independent values. The latencies of
    requests in one queue are not independent, so near saturation the bound is lower than it should be.

    >>> percentile_bound(range(298), 0.99), percentile_bound(range(299), 0.99), percentile_bound(range(473), 0.99)
    (None, 298, 471)
    """
    ordered, above = sorted(values), 0
    # How many values are above the percentile has a binomial distribution. SciPy has it, but would be imported in the
    # second and a half that Ctrl-C leaves to write the results.
    log_chance, at_most = len(ordered) * math.log(share), 0.0
    while at_most + math.exp(log_chance) <= 1 - confidence:
        at_most += math.exp(log_chance)
        log_chance += math.log((len(ordered) - above) / (above + 1) * (1 - share) / share)
        above += 1
    return ordered[-above] if above else None


def busy_share(requests: Sequence[Request], begin: int, end: int) -> float:
    """Return the share of the time from `begin` to `end` (in ns) in which at least one request was being served.

    >>> busy_share([Request(0, 0, 30), Request(0, 20, 40), Request(0, 90, 130)], 0, 100)
    0.5
    """
    busy, until = 0, begin
    for one in sorted(requests, key=lambda request: request.start):
        start, stop = max(one.start, until), min(one.end, end)
        busy += max(0, stop - start)
        until = max(until, stop)
    return busy / (end - begin) if end > begin else 0.0
