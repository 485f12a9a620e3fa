"""Kill commands at random instants: does the next run succeed, and is nothing left or mixed?

    python tests/soak/kills.py --kills 100 --json benchmarks/results/DATE-soak-kills.json

For each kill, a command starts over its own older result and gets a signal after a random share of the time that it
takes undisturbed. Afterwards, the result must be the old or the new one, whole; a signal that can be handled must end
the command within `GRACE`; and the next run must succeed and leave nothing but its result.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import good
from stage import LEFTOVER, Stage, Tally, fork, in_fork, wait

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GRACE = 10.0  # seconds; the product promises 2, and the machine may be busy


@dataclass(frozen=True)
class Verb:
    """A command to kill.

    Attributes:
        command: Arguments; the result is `out` in the working folder.
        whole: Raises unless a result is complete.
        resumes: Whether the next run gets `--resume`, or goes on by itself.
    """

    command: tuple[str, ...]
    whole: Callable[[Path], object]
    again: tuple[str, ...] = ()
    exits: frozenset[int] = frozenset({0})


def whole_bundle(out: Path) -> None:
    """Raise unless every file of a bundle has the hash in its manifest."""
    from msal_deploy.bundle import Bundle

    bundle = Bundle(out)
    for name in bundle.manifest.artifacts:
        bundle.file(name)


def whole_package(out: Path) -> None:
    """Raise unless a package has its notes and its golden tiles."""
    assert (out / "EMBEDDING.md").is_file()
    assert list(out.rglob("*.onnx"))


def whole_set(out: Path) -> None:
    """Raise unless a data set can be read whole."""
    from msal_deploy.data import verify

    report = verify(out)
    assert not report.problems, report.problems


def whole_run(out: Path) -> None:
    """Raise unless the weights of a training run can be read, if there are any yet."""
    from msal_deploy.checkpoint import load_checkpoint

    if (out / "best.safetensors").exists():
        load_checkpoint(out / "best.safetensors")


def whole_page(out: Path) -> None:
    """Raise unless the report is a whole page."""
    assert (out / "report.html").read_text().rstrip().endswith("</html>")


def whole_prediction(out: Path) -> None:
    """Raise unless what is there is whole; a prediction that was killed goes on."""
    import json

    for path in out.rglob("*.geojson"):
        json.loads(path.read_bytes())


VERBS = {
    "package": Verb(("package", "good/bundle", "cpp", "--out", "out"), whole_package),
    "synthesize": Verb(("data", "synthesize", "out", "--train", "3", "--test", "3", "--size", "256"), whole_set),
    "train": Verb(
        ("train", "--data", "good/data", "--recipe", "good/recipe.toml", "--out", "out"), whole_run, ("--resume",)
    ),
    "predict": Verb(
        ("predict", "good/image.png", "--mpp", "0.25", "--bundle", "good/bundle", "-e", good.ENGINE, "--out", "out"),
        whole_prediction,
    ),
    "report": Verb(("report", "out"), whole_page),
    "validate": Verb(
        ("validate", "good/bundle", "--data", "good/data", "--patch", "256", *good.REFERENCE, "--out", "out"),
        whole_page,
        exits=frozenset({0, 1}),
    ),
    "export": Verb(("export", "good/weights.safetensors", "--out", "out"), whole_bundle),
}


class Killing:
    """One working folder, in which commands are killed."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.folder = stage.work / "killed"

    def fresh(self, name: str) -> None:
        """Empty the folder, and give `report` what it renders."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "good").symlink_to(self.stage.good)
        if name == "report":
            shutil.copytree(self.stage.good / "report", self.folder / "out")

    def start(self, name: str, *more: str) -> int:
        """Start a command and return its process."""

        def work() -> None:
            fewer_shapes()
            self.stage.child(VERBS[name].command + more, self.folder, self.folder.with_name("log"))

        return fork(work)

    def duration(self, name: str) -> float:
        """Run a command undisturbed, and return how long it took."""
        self.fresh(name)
        start = time.monotonic()
        code = wait(self.start(name), 600)
        assert code in VERBS[name].exits, (name, code, self.folder.with_name("log").read_text())
        return time.monotonic() - start

    def kill(self, name: str, after: float, number: signal.Signals) -> list[str]:
        """Kill a command, run it again, and return what is wrong."""
        verb, faults = VERBS[name], []
        out = self.folder / "out"
        if name == "train":
            self.fresh(name)  # a finished run is not trained again
        before = out.exists()
        child = self.start(name)
        time.sleep(after)
        sent = time.monotonic()
        try:
            os.kill(child, number)
            code = wait(child, GRACE)
        except ProcessLookupError:
            code = wait(child, 60)
        took = time.monotonic() - sent
        if code is None:
            faults.append(f"still runs {GRACE:g} s after the signal")
        elif code not in (-number, 128 + number, *verb.exits):
            faults.append(f"exit code {code} after {number.name}")
        elif took > 2:
            faults.append(f"ended {took:.1f} s after {number.name}")
        if before and not out.exists():
            faults.append("the old result is gone")
        if out.exists():
            faults += self.check(name, "after the kill")
        handled = number != signal.SIGKILL
        faults += [f"left {path}" for path in self.leftovers() if handled]
        resumes = verb.again if (out / "last.pt").exists() else ()
        code = wait(self.start(name, *resumes), 600)
        if code not in verb.exits:
            faults.append(f"exit code {code} of the next run: {self.folder.with_name('log').read_text()[-200:]}")
        else:
            faults += self.check(name, "after the next run")
        return faults + [f"left {path} after the next run" for path in self.leftovers()]

    def check(self, name: str, when: str) -> list[str]:
        """Return why the result is not whole."""
        code = in_fork(lambda: VERBS[name].whole(self.folder / "out"))
        return [] if code == 0 else [f"the result is not whole {when}"]

    def leftovers(self) -> list[str]:
        """Return temporary files; a lock's file may stay, for the kernel unlocks it."""
        found = [path.relative_to(self.folder) for path in self.folder.rglob(".*")]
        return [str(path) for path in found if LEFTOVER.search(path.name) and not path.name.endswith("-lock")]


def fewer_shapes() -> None:
    """Let `export` compare two shapes: the instants count here, not the comparison."""
    from msal_deploy import export

    export.SIZES, export.BATCHES = ((64, 64), (96, 64)), (1,)


def main() -> int:
    """Kill commands."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--verb", choices=VERBS, action="append")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    rng, tally, start = random.Random(chosen.seed), Tally(), time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        killing = Killing(Stage(work, good.make))
        names = chosen.verb or list(VERBS)
        for index, name in enumerate(names):
            duration = killing.duration(name)
            for kill in range(index, chosen.kills, len(names)):
                number = SIGNALS[kill // len(names) % len(SIGNALS)]
                after = duration * rng.uniform(0.02, 1.0)
                faults = killing.kill(name, after, number)
                log = killing.folder.with_name("log").read_text(errors="replace")
                tally.add(name, f"{name}: {number.name} after {after:.2f} s", faults, log)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.monotonic() - start
    return tally.finish(chosen.json, seed=chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
