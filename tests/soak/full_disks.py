"""Fail every write of a command, one after the other, as a full (ENOSPC) or a read-only disk (EACCES) does.

    python tests/soak/full_disks.py --json benchmarks/results/DATE-soak-full-disks.json

`full_disk.c`, compiled with gcc and preloaded, counts the changes that a command makes in its folder. Then the command
runs once for each of them: that change and all later ones fail. It must exit with 3 (full) or 2 (not permitted) and one
sentence, and leave its older result as it was. A write that it can do without, such as a cache, may fail silently: then
the result must be whole.
"""

import argparse
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import good
from kills import VERBS, Killing, fewer_shapes
from stage import Stage, Tally, fork, snapshot, wait

FAILURES = {"ENOSPC": (errno.ENOSPC, 3), "EACCES": (errno.EACCES, 2)}
LIBRARY = "SOAK_LIBRARY"


def preload() -> None:
    """Start this program again with the library, unless it is loaded."""
    if LIBRARY in os.environ:
        return
    library = Path(tempfile.mkdtemp(prefix="soak-library-")) / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, LIBRARY: str(library), "LD_PRELOAD": str(library)}
    code = subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
    shutil.rmtree(library.parent)
    sys.exit(code)


class Failing(Killing):
    """One working folder, in which writes fail."""

    def run(self, name: str, nth: int, error: int) -> tuple[int | None, int]:
        """Run a command whose `nth` change fails (0: none); return its exit code and the number of its changes."""
        counted = self.folder.with_name("counted")

        def work() -> None:
            library = ctypes.CDLL(os.environ[LIBRARY])
            os.environ.pop("LD_PRELOAD", None)
            fewer_shapes()
            library.soak_arm(os.fsencode(self.folder), ctypes.c_long(nth), error)
            try:
                self.stage.child(VERBS[name].command, self.folder, self.folder.with_name("log"))
            finally:
                counted.write_text(str(library.soak_count()))

        return wait(fork(work), 600), int(counted.read_text())

    def try_each(self, name: str, limit: int, tally: Tally) -> None:
        """Fail every change of a command, or `limit` of them, evenly spread."""
        for title, (error, wanted) in FAILURES.items():
            self.older(name)
            code, changes = self.run(name, 0, error)
            assert code in VERBS[name].exits, self.log
            for nth in sorted({1 + index * changes // min(limit, changes) for index in range(min(limit, changes))}):
                tally.add(
                    name,
                    f"{name}: {title} from change {nth} of {changes}",
                    self.fail(name, nth, error, wanted),
                    self.log,
                )

    def older(self, name: str) -> None:
        """Write the older result."""
        self.fresh(name)
        if name != "train":
            self.run(name, 0, 0)

    def fail(self, name: str, nth: int, error: int, wanted: int) -> list[str]:
        """Fail a change, and return what is wrong."""
        self.older(name)
        before = snapshot(self.folder / "out") if (self.folder / "out").exists() else None
        code, _ = self.run(name, nth, error)
        faults, text = [], self.log
        if code in VERBS[name].exits:
            return self.check(name, f"though it exits {code}")
        if code != wanted:
            faults.append(f"exit code {code} instead of {wanted}")
        faults += [f"says {word}" for word in ("Traceback", "Unexpected") if word in text]
        if text.count("Error: ") != 1:
            faults.append(f"{text.count('Error: ')} lines with Error:")
        if before is not None and name not in ("predict", "train") and snapshot(self.folder / "out") != before:
            faults += self.check(name, "after the failure")  # the new result may be there already
        return faults + [f"left {path}" for path in self.leftovers()]

    @property
    def log(self) -> str:
        """What the command said."""
        return self.folder.with_name("log").read_text(errors="replace")


def main() -> int:
    """Fail writes."""
    preload()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--verb", choices=VERBS, action="append")
    options.add_argument("--limit", type=int, default=10**6, help="Changes to fail per command, evenly spread.")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    tally, start, work = Tally(), time.monotonic(), Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        failing = Failing(Stage(work, good.make))
        for name in chosen.verb or VERBS:
            failing.try_each(name, chosen.limit, tally)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.monotonic() - start
    return tally.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
