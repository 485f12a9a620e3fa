"""Try every bad input of the corpus: is it refused in one sentence, with the right exit code, and nothing left behind?

python tests/soak/bad_inputs.py --json benchmarks/results/DATE-soak-bad-inputs.json
python tests/soak/bad_inputs.py --part 3/10            # a fixed tenth
python tests/soak/bad_inputs.py --only "manifests: nested" --keep
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import good
from corpus import cases
from stage import Stage, Tally


def main() -> int:
    """Run the corpus."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", default="1/1", help="N/M: every M-th case, from the N-th.")
    options.add_argument("--only", default="", help="Only cases whose name has this text.")
    options.add_argument("--json", type=Path)
    options.add_argument("--keep", action="store_true", help="Print where the last case is, and keep it.")
    chosen = options.parse_args()
    first, step = map(int, chosen.part.split("/"))
    tally, start = Tally(), time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        stage = Stage(work, good.make)
        every = cases(stage.good)
        for case in [case for case in every[first - 1 :: step] if chosen.only in case.id]:
            outcome = stage.run(case)
            tally.add(case.kind, case.id, outcome.faults, outcome.output)
    finally:
        if chosen.keep:
            print(f"The last case is in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    tally.seconds = time.monotonic() - start
    return tally.finish(chosen.json, corpus=len(every), part=chosen.part)


if __name__ == "__main__":
    sys.exit(main())
