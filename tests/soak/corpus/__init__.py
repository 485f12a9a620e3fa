"""The bad inputs, by class. All are made from the good ones, and the same on every run."""

from collections.abc import Callable, Iterator
from pathlib import Path

from good import ENGINE
from stage import Case

from corpus.archives import archives
from corpus.bundles import USES, bundles
from corpus.checkpoints import pickles, safetensors
from corpus.damage import DONE, copy
from corpus.images import images
from corpus.labels import annotations, labels
from corpus.outputs import options, outputs
from corpus.tables import results, tables


def controls(source: Path) -> Iterator[Case]:
    """The same commands on good inputs: they must succeed, or a refusal would say nothing about the input."""
    for command in {command: None for commands in USES.values() for command in commands}:
        exits = frozenset({0, 1, 3}) if command[0] in ("validate", "doctor") else DONE
        if command[:3] != ("package", "bundle", "triton"):  # its image is big
            yield Case("controls", " ".join(command), command, copy("bundle"), exits)
    verify, report = ("data", "verify", "data"), ("report", "report")
    yield Case("controls", "verify", verify, copy("data"), DONE)
    yield Case("controls", "report", report, copy("report"), DONE)
    predict = ("predict", "image.png", "--bundle", "../good/bundle", "-e", ENGINE, "--mpp", "0.25", "--out", "out")
    yield Case("controls", "predict", predict, copy("image.png"), DONE)
    yield Case("controls", "doctor", ("doctor", "--gpu", "../good/target.toml"), exits=frozenset({0, 3}))
    train = ("train", "--data", "../good/data", "--recipe", "../good/recipe.toml", "--epochs", "1", "--out", "r")
    yield Case("controls", "train", train, exits=DONE, seconds=300)


CLASSES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "controls": controls,
    "images": images,
    "labels": labels,
    "annotations": annotations,
    "archives": archives,
    "safetensors": safetensors,
    "pickles": pickles,
    "bundles": bundles,
    "tables": tables,
    "results": results,
    "options": options,
    "outputs": outputs,
}


def cases(source: Path) -> list[Case]:
    """Return all cases, from the good inputs in `source`."""
    return [case for make in CLASSES.values() for case in make(source)]


__all__ = ["CLASSES", "DONE", "cases"]
