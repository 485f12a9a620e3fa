"""Write the figures of the newest soak results into the tables of docs/reliability.md, between its markers.

python tests/soak/table.py docs/reliability.md
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TITLES = {
    "bad-inputs": "bad inputs",
    "kills": "kills",
    "full-disks": "failed writes",
    "pairs": "pairs of commands",
}


def newest(name: str) -> tuple[Path, Any] | None:
    """Return the newest result of a script, or None."""
    found = sorted(RESULTS.glob(f"*-soak-{name}.json"))
    return (found[-1], json.loads(found[-1].read_text())) if found else None


def rows() -> list[str]:
    """Return the rows of the table."""
    lines = ["| what | tried | wrong | command | result |", "|---|---|---|---|---|"]
    for name, title in TITLES.items():
        if (found := newest(name)) is not None:
            path, report = found
            link = f"[{path.name}](../benchmarks/results/{path.name})"
            tried, wrong = sum(report["tried"].values()), len(report["failed"])
            lines.append(f"| {title} | {tried:,} | {wrong} | `{report['command']}` | {link} |")
    if (found := newest("fuzz")) is not None:
        path, report = found
        minutes, runs = (sum(one[key] for one in report["parsers"]) for key in ("minutes", "executions"))
        wrong = sum(len(one["findings"]) + one["timeouts"] for one in report["parsers"])
        link = f"[{path.name}](../benchmarks/results/{path.name})"
        lines.append(f"| fuzzing, {minutes:g} minutes | {runs:,} | {wrong} | `{report['command']}` | {link} |")
    if (found := newest("load")) is not None:
        path, report = found
        said = f"{report['mib_per_hour']:+g} MiB and {report['descriptors_per_hour']:+g} descriptors an hour"
        link = f"[{path.name}](../benchmarks/results/{path.name})"
        title = f"load, {report['minutes']:g} minutes"
        lines.append(f"| {title} | {report['rounds']:,} rounds | {said} | `python tests/soak/load.py` | {link} |")
    return lines


def classes() -> list[str]:
    """Return the table of the classes of bad inputs."""
    found = newest("bad-inputs")
    if found is None:
        return []
    failed = [str(one["case"]).partition(":")[0] for one in found[1]["failed"]]
    lines = ["| class | tried | wrong |", "|---|---|---|"]
    return lines + [f"| {kind} | {number:,} | {failed.count(kind)} |" for kind, number in found[1]["tried"].items()]


def main() -> None:
    """Replace what is between the markers."""
    page = Path(sys.argv[1])
    text = page.read_text()
    for name, lines in (("results", rows()), ("classes", classes())):
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        content = "\n".join([start, *lines, end])
        text = re.sub(f"{start}.*?{end}", lambda _, content=content: content, text, flags=re.DOTALL)
    page.write_text(text)


if __name__ == "__main__":
    main()
