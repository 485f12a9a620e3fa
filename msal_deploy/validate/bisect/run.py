"""Bisect: find the nodes that make an FP16 or INT8 engine lose Dice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from msal_deploy.bundle import Bundle
from msal_deploy.data import Patch
from msal_deploy.errors import BadInput, GateFailed
from msal_deploy.files import StrPath
from msal_deploy.graph import layers, load_graph
from msal_deploy.metrics import Interval, signed
from msal_deploy.runtimes.catalogue import find_runtime
from msal_deploy.validate.bisect.evaluate import Evaluator, Trial
from msal_deploy.validate.bisect.fp16 import Fp16Graph
from msal_deploy.validate.bisect.graphs import LowPrecisionGraph
from msal_deploy.validate.bisect.int8 import Int8Graph
from msal_deploy.validate.bisect.report import BisectReport, NodeGain
from msal_deploy.validate.bisect.search import candidates, cheapest, noise, order, rank, spread, within
from msal_deploy.validate.bisect.tensors import compare_tensors, crops

GRAPHS: dict[str, type[LowPrecisionGraph]] = {"fp16": Fp16Graph, "int8": Int8Graph}
CPU_ENGINES = {"fp16": "onnxruntime:fp16", "int8": "openvino:int8"}  # they follow the graph, rounding by rounding


def bisect(
    bundle: Bundle,
    engine_id: str,
    patches: Sequence[Patch],
    *,
    budget: float,
    reference: str = "torch:fp32",
    trial_log: StrPath | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> BisectReport:
    """Find the nodes that make an engine lose Dice, and the cheapest set that brings it within its budget.

    >>> from msal_deploy.data import open_dataset, patches_of
    >>> with open_dataset(Path("monuseg")) as dataset:
    ...     patches = patches_of(dataset.test, size=64)
    >>> report = bisect(Bundle("bundle"), "onnxruntime:fp16", patches, budget=0.01, reference="onnxruntime:fp32")
    >>> report.sentence
    'onnxruntime:fp16 is within the budget of 0.01 Dice; no node needs to return to float.'

    The graph of the bundle is edited, not made again: a wrong scale in it is found. Graphs of TensorRT run on the CPU,
    because a plan takes minutes to build; with a GPU, the inner tensors are TensorRT's.

    Args:
        bundle: Bundle with the graph, and the FP32 graph that it was made from.
        engine_id: An FP16 or INT8 engine.
        patches: Labelled patches of the same size, of at least two images. Those without a nucleus are left out.
        budget: Largest acceptable loss of mean Dice.
        reference: Engine to compare with.
        trial_log: File that records each trial, so that an interrupted run resumes; None for none.
        threads: CPU threads; None for the runtime's own choice.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The engine is not an FP16 or INT8 engine with a graph, its graph was not made from the FP32 graph, or
            the patches are of fewer than two images.
        GateFailed: The engine is over its budget even with all nodes in float, or its plan is and its graph is not.
        MissingRequirement: The engine cannot be opened on this machine.
    """
    labelled = [patch for patch in patches if patch.mask.any()]
    _check(engine_id, labelled, budget)
    evaluated_on = _cpu_engine(engine_id)
    evaluator = Evaluator(
        bundle,
        evaluated_on,
        _open_graph(bundle, evaluated_on),
        labelled,
        reference=reference,
        threads=threads,
        trial_log=Path(trial_log) if trial_log else None,
    )
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(engine_id, total=None)
        return _Bisection(evaluator, engine_id, evaluated_on, reference, budget).run(
            lambda text: bar.update(task, advance=1, description=f"{engine_id}: {text}"),
            lambda total: bar.update(task, total=total),
        )


def _check(engine_id: str, patches: Sequence[Patch], budget: float) -> None:
    precision = engine_id.partition(":")[2]
    runtime = find_runtime(engine_id)
    if runtime.device == "server" or runtime.opens == "checkpoint" or precision not in GRAPHS:
        raise BadInput(f"{engine_id} has no FP16 or INT8 graph to bisect", "choose an engine such as openvino:int8")
    if len({patch.stem for patch in patches}) < 2:
        raise BadInput("Expected patches with nuclei of at least two images", "add labelled images")
    if not budget >= 0:
        raise BadInput(f"Expected a budget of at least 0, got {budget:g}", "set the acceptable loss, such as 0.002")


def _cpu_engine(engine_id: str) -> str:
    return engine_id if find_runtime(engine_id).device == "cpu" else CPU_ENGINES[engine_id.partition(":")[2]]


def _open_graph(bundle: Bundle, engine_id: str) -> LowPrecisionGraph:
    runtime, _, precision = engine_id.partition(":")
    graph = GRAPHS[precision](load_graph(bundle.graph(precision, runtime)), load_graph(bundle.graph("fp32")))
    if not graph.nodes:
        name = bundle.graph_name(precision, runtime)
        raise BadInput(f"{name} computes everything in FP32 under the name of {precision}", "export the bundle again")
    return graph


def _has_tensorrt(engine_id: str) -> bool:
    """Return whether the inner tensors can be computed by the engine's own TensorRT."""
    if engine_id.partition(":")[0] != "tensorrt" or find_spec("tensorrt") is None:
        return False
    from msal_deploy.trt.local_gpu import current_gpu

    return bool(current_gpu().sm)


class _Bisection:
    """One run of `bisect`, in the order of its methods."""

    def __init__(self, evaluator: Evaluator, engine_id: str, evaluated_on: str, reference: str, budget: float) -> None:
        self.evaluator, self.graph, self.budget = evaluator, evaluator.graph, budget
        self.engine_id, self.evaluated_on, self.reference = engine_id, evaluated_on, reference
        counted = layers(self.graph.source)
        total = sum(layer.macs for layer in counted)
        self.shares = {layer.name: layer.macs / total for layer in counted}

    def run(self, advance: Callable[[str], None], expect: Callable[[int], None]) -> BisectReport:
        advance("as it is")
        base = self._base()
        if within(base, self.budget):
            return self._report(base.delta_dice, "", (), (), base.delta_dice)
        self._require_fault_in_precision(base, advance)
        advance("inner tensors")
        on_gpu = _has_tensorrt(self.engine_id)
        errors = compare_tensors(self.graph, crops(self.evaluator.patches), on_gpu=on_gpu)
        suspects = candidates(errors)
        expect(3 + len(suspects) + 1)  # a lower limit: the set that is searched last may take more
        indices = spread(self.evaluator.patches)
        ranking = rank(self.evaluator, suspects, indices, self.shares, advance)
        chosen = cheapest(self.evaluator, order(ranking, errors), self.budget, self.shares, advance)
        reached = self.evaluator.evaluate(chosen).delta_dice
        return self._report(base.delta_dice, "tensorrt" if on_gpu else "onnxruntime", ranking, chosen, reached)

    def _base(self) -> Trial:
        if self.engine_id == self.evaluated_on:
            return self.evaluator.evaluate(())
        return self.evaluator.as_is(self.engine_id)

    def _require_fault_in_precision(self, base: Trial, advance: Callable[[str], None]) -> None:
        bound = f"lower bound of the mean ΔDice: {signed(base.delta_dice.lower)}"
        if self.engine_id != self.evaluated_on and within(self.evaluator.evaluate(()), self.budget):
            raise GateFailed(
                f"{self.engine_id} loses Dice ({bound}), but its graph does not on {self.evaluated_on}: the fault is "
                "in the plan",
                "build the plan again: msal-deploy build-trt",
            )
        advance("all nodes in float")
        everything = self.evaluator.evaluate(self.graph.nodes)
        if not within(everything, self.budget):
            raise GateFailed(
                f"{self.engine_id} loses Dice ({bound}) even with all nodes in float (lower bound: "
                f"{signed(everything.delta_dice.lower)}): the fault is not its precision",
                "export the bundle again, or validate on more images",
            )

    def _report(
        self,
        delta_dice: Interval,
        compared_on: str,
        ranking: tuple[NodeGain, ...],
        chosen: tuple[str, ...],
        reached: Interval,
    ) -> BisectReport:
        return BisectReport(
            engine=self.engine_id,
            evaluated_on=self.evaluated_on,
            compared_on=compared_on,
            reference=self.reference,
            budget=self.budget,
            patches=len(self.evaluator.patches),
            images=len({patch.stem for patch in self.evaluator.patches}),
            delta_dice=delta_dice,
            candidates=len(self.graph.nodes),
            nodes=ranking,
            noise=noise(ranking),
            float_nodes=chosen,
            within_budget=reached,
            cost=sum(self.shares.get(node, 0.0) for node in chosen),
            evaluations=self.evaluator.evaluations,
        )
