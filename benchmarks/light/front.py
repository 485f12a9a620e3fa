"""What do lighter networks cost in Dice, and what do they gain in speed? All networks in one run, against the full one.

Example: python benchmarks/light/front.py run bundle r18 light --data monuseg --json front.json --plot front.png
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from msal_deploy.bench import Timing, describe_machine, time_interleaved
from msal_deploy.bench.inputs import image_sets
from msal_deploy.bench.ratios import Ratio, speed_up
from msal_deploy.bundle import Bundle
from msal_deploy.cli.options import Json, Plot
from msal_deploy.cli.terminal import command_line, run_command_line
from msal_deploy.data import AnnotatedImage, open_dataset, patches_of, validation_split
from msal_deploy.errors import BadInput
from msal_deploy.files import atomic_file, write_json
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.validate import validate

app = command_line("Compare lighter networks with the full one.")
BASELINE = "torch:fp32"
ENGINES = ("openvino:fp32", "openvino:int8")
GOAL_SPEED_UP, GOAL_DELTA = 8.0, -0.002


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of one network.

    Attributes:
        network: Name of the bundle.
        engine: Id of the engine.
        p50_ms: Median latency of one image of 512 × 512 px.
        speed_up: Over PyTorch in eager mode with the full network; its interval is over the windows of one process.
        dice: Mean Dice over the patches.
        delta: Mean ΔDice against PyTorch with the full network, one number for each image weighing alike.
        lower: One-sided 95% lower bound of `delta`.
        worst_image: The largest loss of one image.
    """

    network: str
    engine: str
    p50_ms: float
    speed_up: Ratio
    dice: float
    delta: float
    lower: float
    worst_image: float

    @property
    def meets_goal(self) -> bool:
        """Whether the speed-up and the mean ΔDice are at least the goal's."""
        return self.speed_up.ratio >= GOAL_SPEED_UP and self.delta >= GOAL_DELTA


@app.command()
def run(
    bundles: Annotated[list[Path], typer.Argument(help="The bundle of the full network, then those of others.")],
    data: Annotated[str, typer.Option(help="Labelled images, such as MoNuSeg.")],
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Score the training images that training held out, not the test images.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.001, help="Length of a time window in seconds.")] = 1.0,
    windows: Annotated[int, typer.Option(min=5, help="Number of interleaved time windows.")] = 15,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """Time the engines of all bundles interleaved, and score each against PyTorch with the first bundle.

    Example: python benchmarks/light/front.py run bundle r18 light --data monuseg --json front.json --plot front.png
    """
    opened = [Bundle(path) for path in bundles]
    names = [bundle.path.name for bundle in opened]
    if len(set(names)) < len(names):
        raise BadInput(f"Expected bundles with different names, got {', '.join(names)}", "rename one")
    environment = describe_machine()
    timings = time_all(opened, seconds, windows)
    points: list[Point] = []
    with open_dataset(data) as dataset:
        images = validation_split(dataset.train, 0.2)[1] if held_out else dataset.test
        for bundle in opened:
            points += score(bundle, opened[0], images, timings)
    baseline = timings[names[0], BASELINE].latency_ms["p50"]
    Console().print(table(points, baseline))
    if json:
        value = {"images": [image.stem for image in images], "baseline_p50_ms": baseline}
        write_json(json, value | {"points": msgspec.to_builtins(points), "environment": environment})
    if plot:
        save_plot(points, plot)


def time_all(bundles: Sequence[Bundle], seconds: float, windows: int) -> dict[tuple[str, str], Timing]:
    """Return the timing of the baseline with the first bundle, and of each engine with each bundle."""
    sets = image_sets((512, 512), 1)
    chosen = [(bundles[0], BASELINE), *((bundle, engine) for bundle in bundles for engine in ENGINES)]
    with ExitStack() as stack, Progress(console=Console(stderr=True)) as bar:
        engines = [stack.enter_context(open_engine(bundle, engine)) for bundle, engine in chosen]
        tick = partial(bar.advance, bar.add_task("timing", total=windows * len(engines)))
        calls = [_in_turn(engine, sets) for engine in engines]
        timings = time_interleaved(calls, seconds=seconds, windows=windows, tick=tick)
    return {(bundle.path.name, engine): timing for (bundle, engine), timing in zip(chosen, timings, strict=True)}


def _in_turn(engine: Engine, sets: Sequence[Any]) -> Any:
    images = cycle(sets)
    return lambda: engine(next(images))


def score(
    bundle: Bundle, full: Bundle, images: Sequence[AnnotatedImage], timings: dict[tuple[str, str], Timing]
) -> list[Point]:
    """Return the points of a bundle."""
    report = validate(bundle, ENGINES, patches_of(images), against=full, progress=True).to_json()
    baseline = timings[full.path.name, BASELINE]
    name = bundle.path.name
    return [make_point(name, engine, report["engines"][engine], timings[name, engine], baseline) for engine in ENGINES]


def make_point(network: str, engine: str, scores: Mapping[str, Any], timing: Timing, baseline: Timing) -> Point:
    """Return a point from the engine's part of a report of validate and its timing."""
    ratio = speed_up(timing.medians, baseline.medians)
    assert ratio is not None  # there are at least five windows
    return Point(
        network=network,
        engine=engine,
        p50_ms=timing.latency_ms["p50"],
        speed_up=ratio,
        dice=scores["pixel_dice_mean"],
        delta=scores["delta_dice"]["mean"],
        lower=scores["delta_dice"]["lower"],
        worst_image=scores["worst_image"]["delta_dice"],
    )


def table(points: Sequence[Point], baseline: float) -> Table:
    """Return the points as a table: median latency, mean ΔDice and its 95% lower bound, ✓ if the goal is met."""
    title = f"Against {BASELINE} with {points[0].network}, {baseline:.0f} ms"
    shown = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("network", "engine", "ms", "speed-up", "Dice", "ΔDice", "bound", ""):
        shown.add_column(column, justify="left" if column in ("network", "engine") else "right", no_wrap=True)
    for point in points:
        goal = "✓" if point.meets_goal else ""
        numbers = (f"{point.dice:.4f}", f"{point.delta:+.4f}", f"{point.lower:+.4f}", goal)
        shown.add_row(point.network, point.engine, f"{point.p50_ms:.1f}", f"{point.speed_up.ratio:.2f}×", *numbers)
    return shown


def save_plot(points: Sequence[Point], path: Path) -> None:
    """Draw mean ΔDice and its lower bound over the speed-up. The suffix of `path` selects the format."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(7, 4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for index, engine in enumerate(ENGINES):
        own = [point for point in points if point.engine == engine]
        axes.vlines([p.speed_up.ratio for p in own], [p.lower for p in own], [p.delta for p in own], f"C{index}", lw=1)
        axes.plot([p.speed_up.ratio for p in own], [p.delta for p in own], "o", color=f"C{index}", label=engine)
        for point in own:
            place = (point.speed_up.ratio, point.delta)
            axes.annotate(point.network, place, (6, 4), textcoords="offset points", fontsize=9)
    axes.set(xlabel=f"speed-up over {BASELINE} with {points[0].network}, 512 × 512 px", ylabel="mean ΔDice")
    axes.set_title("Dots: mean; lines: down to the 95% lower bound", fontsize=9)
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(None, right + 1), ylim=(None, top))  # room for the names
    sides = (right + 1 - GOAL_SPEED_UP, top - GOAL_DELTA)
    axes.add_patch(Rectangle((GOAL_SPEED_UP, GOAL_DELTA), *sides, color="#e8f1e4", lw=0, zorder=0, label="goal"))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.3, 0))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # otherwise the baseline would use a GPU
    run_command_line(app)
