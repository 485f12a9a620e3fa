"""Do the tests notice a fault in a reported number? Mutants of the modules that compute, judge and show them.

Example: python benchmarks/mutants/run.py msal_deploy/metrics/pixels.py
"""

import ast
import contextlib
import gc
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

# One thread for each mutant: several run side by side. Set before anything starts threads.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

import cosmic_ray.operators.provider
import typer
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from operators import OPERATORS
from rich.console import Console
from rich.progress import track
from rich.table import Table

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
# Of one operator into another, the confusions that are likely; Cosmic Ray has all pairs, and most of them crash.
BINARY = {
    "Add": ("Sub", "Mul"), "Sub": ("Add", "Div"), "Mul": ("Div", "Add"), "Div": ("Mul", "FloorDiv"),
    "FloorDiv": ("Div", "Mul"), "Mod": ("Div", "Mul"), "Pow": ("Mul",), "BitOr": ("BitAnd",), "BitAnd": ("BitOr",),
    "LShift": ("RShift",), "RShift": ("LShift",),
}  # fmt: skip
IMPORTED_BEFORE = (  # by this process, so that a mutant's need not: all but the package itself
    "hypothesis", "jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg", "msgspec", "numpy.testing", "onnx",
    "onnxruntime", "PIL.Image", "pytest", "rich.progress", "scipy.stats", "skimage.segmentation", "sklearn.metrics",
    "tifffile", "typer.testing",
)  # fmt: skip
PYTEST = ("--noconftest", "-x", "-q", "--tb=no", *(f"-pno:{name}" for name in ("cacheprovider", "unraisableexception")))
MEMORY = 8 << 30  # bytes that a mutant may take
MIN_SECONDS = 5  # of processor time for a mutant's tests
MAX_SLOWDOWN = 5  # and this many times what they take without a mutant


class Mutant(NamedTuple):
    """A faulty copy of a module.

    Attributes:
        before, after: the first line that differs, without its indentation.
    """

    module: str
    operator: str
    line: int
    before: str
    after: str
    code: str


app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode="markdown")


@app.command()
def run(
    modules: Annotated[list[str] | None, typer.Argument(help="Modules of modules.toml. Default: all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Mutants tested at a time.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the summary to this file.")] = None,
    least: Annotated[float, typer.Option(help="Share of mutants that must be killed; exit 1 with fewer.")] = 0.95,
) -> None:
    """Mutate each module in memory, run its tests on each mutant, and list those that no test notices.

    Example: python benchmarks/mutants/run.py msal_deploy/metrics/pixels.py
    """
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    known = tomllib.loads((FOLDER / "modules.toml").read_text(encoding="utf-8"))
    chosen = modules or list(known)
    if unknown := set(chosen) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not in {FOLDER / 'modules.toml'}")
    for name in IMPORTED_BEFORE:
        importlib.import_module(name)
    gc.freeze()  # no mutant searches this process's objects for garbage
    console, reasons, started = Console(stderr=True), _reasons(), time.monotonic()
    results = {module: _test_all(module, known[module], jobs, console) for module in chosen}
    summary = _summary(results, reasons, time.monotonic() - started)
    Console().print(_table(summary))
    for survivor in summary["survivors"]:
        print(
            f"{survivor['module']}:{survivor['line']} {survivor['operator']}: {survivor['reason'] or 'NOT EXPLAINED'}"
        )
        print(f"    - {survivor['before']}\n    + {survivor['after']}")
    if json_file:
        json_file.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unexplained = any(not survivor["reason"] for survivor in summary["survivors"])
    raise typer.Exit(int(unexplained or summary["killed"] < least * summary["mutants"]))


def _reasons() -> dict[tuple[str, str, str], str]:
    """Return (module, line before, line after) -> why the mutant is equivalent."""
    entries = tomllib.loads((FOLDER / "equivalent.toml").read_text(encoding="utf-8")).get("mutant", [])
    return {(entry["module"], entry["before"], after): entry["reason"] for entry in entries for after in entry["after"]}


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield the mutants of a module, each once, but for what is there for the type checker only."""
    source = Path(module).read_text(encoding="utf-8")
    tree, skipped, seen = get_ast(source), list(_annotations(source)), {_meaning(source), None}
    for name, operator in _operators().items():
        occurrence = -1
        for node in ast_nodes(tree):
            for start, end in operator.mutation_positions(node):
                occurrence += 1
                if _is_signature(node) or any(first <= start and end <= last for first, last in skipped):
                    continue
                code = mutate_code(source, operator, occurrence)
                if code is None or (meaning := _meaning(code)) in seen:
                    continue
                seen.add(meaning)
                line, before, after = _difference(source, code)
                if before == "if TYPE_CHECKING:":
                    continue
                yield Mutant(module, name, line, before, after, code)


def _is_signature(node: Any) -> bool:
    """Return whether it is the * or / of a signature, which are operators to parso."""
    return node.type == "operator" and node.parent.type in ("parameters", "param")


def _meaning(code: str) -> str | None:
    """Return what the code says, however it is laid out; of all that is no Python, such as a / that unpacks, None."""
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return None
    return ast.dump(ast.parse(code))


def _operators() -> dict[str, Any]:
    theirs = cosmic_ray.operators.provider.OperatorProvider()
    kept = {name: theirs[name]() for name in theirs if _is_kept(name)}
    return kept | {name: operator() for name, operator in OPERATORS.items()}


def _is_kept(name: str) -> bool:
    kind, _, pair = name.partition("_")
    before, _, after = pair.partition("_")
    if kind == "ReplaceBinaryOperator":
        return after in BINARY.get(before, ())
    if kind == "ReplaceComparisonOperator":  # whether two equal strings are one object says nothing of the code
        return not after.startswith("Is") or before.startswith("Is")
    return not name.startswith("Variable")  # which need arguments


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        for found in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(found, ast.expr):
                assert found.end_lineno is not None and found.end_col_offset is not None
                yield (
                    (found.lineno, _column(lines, found.lineno, found.col_offset)),
                    (found.end_lineno, _column(lines, found.end_lineno, found.end_col_offset)),
                )


def _column(lines: Sequence[str], line: int, column: int) -> int:
    """Return a column in characters; ast counts bytes."""
    return len(lines[line - 1].encode()[:column].decode())


def _difference(source: str, code: str) -> tuple[int, str, str]:
    pairs = zip(source.splitlines(), code.splitlines(), strict=False)
    number, before, after = next((k, a, b) for k, (a, b) in enumerate(pairs, 1) if a != b)
    return number, before.strip(), after.strip()


def _test_all(module: str, tests: Sequence[str], jobs: int, console: Console) -> list[tuple[Mutant, str]]:
    """Return each mutant with how it ended: killed, timeout or survived."""
    source = Path(module).read_text(encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if _wait(_start(module, source, tests, 3600)) != 0:
        raise SystemExit(
            f"The tests of {module} fail without a mutant: python -m pytest --noconftest {' '.join(tests)}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = max(MIN_SECONDS, round(MAX_SLOWDOWN * took))
    running: dict[int, Mutant] = {}
    results: list[tuple[Mutant, str]] = []

    def collect() -> None:
        pid, status = os.wait()
        results.append((running.pop(pid), _outcome(status)))

    mutants = list(mutants_of(module))
    for mutant in track(mutants, f"{module} ({took:.1f} s)", console=console):
        if len(running) == jobs:
            collect()
        running[_start(module, mutant.code, tests, seconds)] = mutant
    while running:
        collect()
    return results


def _outcome(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else "killed"
    return "killed" if os.WEXITSTATUS(status) else "survived"


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _start(module: str, code: str, tests: Sequence[str], seconds: int) -> int:
    """Run tests in a copy of this process in which `module` has other code; the files stay as they are."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(20 * seconds)  # for one that waits and computes nothing
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.meta_path.insert(0, Mutated(module, code))
        import pytest

        status = int(pytest.main([*PYTEST, *tests]))
    finally:
        os._exit(status)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, and runs other code for it."""

    def __init__(self, path: str, code: str) -> None:
        self._path, self._code = path, code
        self._name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != self._name:
            return None
        places = [str(Path(self._path).parent.absolute())] if self._path.endswith("__init__.py") else None
        return importlib.util.spec_from_file_location(name, self._path, loader=self, submodule_search_locations=places)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._code, self._path, "exec"), module.__dict__)


def _summary(
    results: dict[str, list[tuple[Mutant, str]]], reasons: dict[tuple[str, str, str], str], seconds: float
) -> dict[str, Any]:
    ends = {module: Counter(end for _, end in found) for module, found in results.items()}
    survivors = [mutant for found in results.values() for mutant, end in found if end == "survived"]
    total = sum(map(len, results.values()))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "mutants": total,
        "killed": total - len(survivors),
        "modules": {
            module: {"mutants": len(found), "killed": len(found) - ends[module]["survived"], **_times(ends[module])}
            for module, found in results.items()
        },
        "operators": dict(Counter(mutant.operator for found in results.values() for mutant, _ in found).most_common()),
        "survivors": [
            {
                **{k: v for k, v in mutant._asdict().items() if k != "code"},
                "reason": reasons.get((mutant.module, mutant.before, mutant.after), ""),
            }
            for mutant in sorted(survivors)
        ],
    }


def _times(ends: Counter[str]) -> dict[str, int]:
    return {"of_these_by_timeout": ends["timeout"]}


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['killed']} of {summary['mutants']} mutants killed in {summary['seconds']} s")
    for column in ("module", "mutants", "killed", "share"):
        table.add_column(column, justify="left" if column == "module" else "right")
    for module, row in summary["modules"].items():
        table.add_row(module, str(row["mutants"]), str(row["killed"]), f"{row['killed'] / row['mutants']:.1%}")
    return table


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        app()
