"""Run two commands on one output at the same time: nothing may be lost or mixed.

    python tests/soak/pairs.py --json benchmarks/results/DATE-soak-pairs.json

All pairs of the verbs that write, each verb with itself too. At least one must finish; the other may wait, or be
refused in one sentence. The result must be whole, as that of a verb that finished, with no leftovers.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import good
from kills import VERBS, Killing, fewer_shapes
from stage import Stage, Tally, fork, wait

DELAYS = (0.0, 0.15)  # seconds between the two starts


class Pairing(Killing):
    """One working folder, in which two commands write."""

    def both(self, names: tuple[str, str], delay: float) -> list[str]:
        """Run two commands, the second one `delay` seconds later, and return what is wrong."""
        self.fresh("report" if "report" in names else names[0])
        children = []
        for index, name in enumerate(names):
            children.append(self.start_logged(name, self.logs[index]))
            time.sleep(delay if index == 0 else 0)
        codes = [wait(child, 600) for child in children]
        faults = []
        for name, code, log in zip(names, codes, self.logs, strict=True):
            text = log.read_text(errors="replace")
            if code not in VERBS[name].exits and (code != 2 or text.count("Error: ") != 1):
                faults.append(f"{name} exits with {code}: {text.strip()[-200:]}")
            faults += [f"{name} says {word}" for word in ("Traceback", "Unexpected") if word in text]
        done = [name for name, code in zip(names, codes, strict=True) if code in VERBS[name].exits]
        if not done:
            faults.append("neither finished")
        elif all(self.check(name, "") for name in done):
            faults.append("the result is not whole")
        return faults + [f"left {path}" for path in self.leftovers()]

    @property
    def logs(self) -> tuple[Path, Path]:
        """Where the two commands write."""
        return self.folder.with_name("log-1"), self.folder.with_name("log-2")

    def start_logged(self, name: str, log: Path) -> int:
        """Start a command with a log of its own."""

        def work() -> None:
            fewer_shapes()
            self.stage.child(VERBS[name].command, self.folder, log)

        return fork(work)


def main() -> int:
    """Run pairs of commands."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--verb", choices=VERBS, action="append")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    tally, start, work = Tally(), time.monotonic(), Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        pairing = Pairing(Stage(work, good.make))
        for names in itertools.combinations_with_replacement(chosen.verb or VERBS, 2):
            for delay in DELAYS:
                title = " and ".join(names)
                tally.add("pairs", f"pairs: {title}, {delay:g} s apart", pairing.both(names, delay))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.monotonic() - start
    return tally.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
