"""Does `bench` under load report what queueing theory predicts?

A closed loop with one request in flight must have the mean latency that `bench` measures. In an open loop with random
arrivals and one call at a time, the mean wait is λ·E[S²] / (2·(1 − ρ)) (Pollaczek and Khinchine), with the service
times S of the same run; for a constant service time that is S·ρ / (2·(1 − ρ)).
"""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from msal_deploy.bench import bench, load_test
from msal_deploy.bundle import Bundle
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.errors import BadInput
from msal_deploy.files import write_json

BATCHES = 20  # of successive requests: their means are nearly independent
SHARES = (0.3, 0.5, 0.7)

app = command_line(__doc__ or "")


class Wait(msgspec.Struct, frozen=True):
    """The mean wait in an open loop, in ms; intervals are 95%."""

    rate: float
    requests: int
    utilisation: float
    measured_ms: float
    low_ms: float
    high_ms: float
    predicted_ms: float


def wait_of(arrivals: np.ndarray, starts: np.ndarray, ends: np.ndarray, seconds: float) -> Wait:
    """Compare the waits of requests (times in seconds, in order of arrival) with what their service times predict."""
    if len(arrivals) < 2 * BATCHES:
        raise BadInput(f"{len(arrivals)} requests are too few to estimate a mean wait", "use more --seconds")
    waits, services = (starts - arrivals) * 1000, ends - starts
    means = np.array([part.mean() for part in np.array_split(waits, BATCHES)])
    margin = 2.093 * means.std(ddof=1) / BATCHES**0.5  # Student's t with 19 degrees of freedom
    rate = len(arrivals) / seconds
    busy = rate * services.mean()
    predicted = 1000 * rate * (services**2).mean() / (2 * (1 - busy)) if busy < 1 else float("inf")
    mean = float(waits.mean())
    return Wait(rate, len(arrivals), busy, mean, mean - margin, mean + margin, predicted)


@app.command()
def run(
    bundle: Path,
    engine: Annotated[str, typer.Option("--engine", "-e")] = "openvino:int8",
    share: Annotated[
        list[float] | None, typer.Option(help="Of the throughput of a closed loop. Default: 0.3, 0.5 and 0.7.")
    ] = None,
    size: int = 512,
    seconds: Annotated[float, typer.Option(help="Length of each load.")] = 60.0,
    json: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure the closed loop beside `bench`, and the waits in open loops beside their prediction."""
    opened, shape = Bundle(bundle), (size, size)
    timed = bench(opened, [engine], batches=(1,), size=shape, seconds=seconds / 20, windows=4, rounds=1)
    closed = load_test(opened, [engine], in_flight=[1], size=shape, seconds=seconds / 2)
    again = bench(opened, [engine], batches=(1,), size=shape, seconds=seconds / 20, windows=4, rounds=1)
    expected = [one.results[0].timing.latency_ms["mean"] for one in (timed, again)]
    latency = closed.results[0].latency_ms["mean"]
    print(f"bench: mean {expected[0]:.2f} and {expected[1]:.2f} ms; closed loop, 1 in flight: mean {latency:.2f} ms")
    rates = [one * closed.results[0].requests_per_s for one in share or SHARES]
    report = load_test(opened, [engine], rates=rates, size=shape, seconds=seconds)
    waits = []
    for result in report.results:
        times = [(one.intended, one.start, one.end) for one in result.served.requests]
        arrivals, starts, ends = np.array(times).T / 1e9
        waits.append(wait := wait_of(arrivals, starts, ends, result.seconds))
        print(
            f"{wait.rate:.2f} requests/s, {wait.requests} of them, busy {wait.utilisation:.0%}: mean wait "
            f"{wait.measured_ms:.1f} ms ({wait.low_ms:.1f} to {wait.high_ms:.1f}), predicted {wait.predicted_ms:.1f}; "
            f"generator {result.generator_cores:.2%} of a core"
        )
    if json:
        means = {"bench_mean_ms": expected, "closed_loop_mean_ms": latency}
        waits_json = [msgspec.structs.asdict(wait) for wait in waits]
        write_json(json, {"engine": engine, "size": size, **means, "waits": waits_json, **report.to_json()})


if __name__ == "__main__":
    run_command_line(app)
