"""Run commands on hostile inputs in forked processes, and judge what they leave behind.

A `Stage` imports the package once and forks one process for each case, so that a hang or a crash ends with it. It must
not have computed anything before: the threads of the runtimes do not survive a fork.
"""

import contextlib
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import re
import select
import shlex
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
for path in (ROOT, ROOT / "tests", ROOT / "tests" / "soak"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

CANARY = "PWNED"  # what a payload makes
LEFTOVER = re.compile(r"\.partial-|\.lock$|-old$")
REFUSED = frozenset({2})
EITHER = frozenset({0, 1, 2})


@dataclass(frozen=True)
class Case:
    """One command on one input.

    Attributes:
        kind: Class of inputs.
        name: What is wrong with it.
        command: Arguments of msal-deploy; paths are relative to the case's own folder.
        make: Writes the inputs into the case's folder. Beside it is `good`, which must not be changed.
        exits: Exit codes that are right.
        seconds: Longest time that it may take, on a slow machine.
    """

    kind: str
    name: str
    command: tuple[str, ...]
    make: Callable[[Path], object] = lambda folder: None
    exits: frozenset[int] = REFUSED
    seconds: float = 30
    stdin: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name}: {self.command[0]}"


@dataclass
class Outcome:
    """What a case did, and what is wrong with that."""

    case: Case
    code: int | None
    seconds: float
    output: str
    faults: list[str] = field(default_factory=list)


def import_everything() -> None:
    """Import all modules of the package, so that a fork has nothing left to import."""
    import msal_deploy

    for module in pkgutil.walk_packages(msal_deploy.__path__, "msal_deploy."):
        if "triton_files" in module.name or module.name.endswith("__main__"):
            continue
        with contextlib.suppress(Exception):  # runtimes that this machine does not have
            importlib.import_module(module.name)
    gc.freeze()  # or the first collection in each fork would copy the memory that it shares


def in_fork(work: Callable[[], object], seconds: float = 600) -> int | None:
    """Run `work` in a forked process and return its exit code; None if it had to be killed."""
    return wait(fork(work), seconds)


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process, the leader of a group of its own, and return it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child: int, seconds: float) -> int | None:
    """Return the exit code of a process, negative for a signal; None if it had to be killed after `seconds`."""
    handle = os.pidfd_open(child)
    try:
        done, _, _ = select.select([handle], [], [], seconds)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status if done else None
    finally:
        os.close(handle)


def quietly(prepare: Callable[[Path], object], folder: Path) -> None:
    """Call `prepare` with its output in a file beside `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("prepared.log").open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    prepare(folder)


def command_line(arguments: Iterable[str]) -> None:
    """Run msal-deploy in this process."""
    from msal_deploy.cli import main

    sys.argv = ["msal-deploy", *arguments]
    main()


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a folder: path -> type and content. FIFOs and devices are not opened."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            content: object = str(path.readlink())
        elif stat.S_ISREG(mode):
            size = path.stat().st_size
            content = hashlib.sha256(path.read_bytes()).hexdigest() if size < 1 << 24 else size
        else:
            content = None
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found


class Stage:
    """A folder for cases with `good` inputs in it."""

    def __init__(self, work: Path, prepare: Callable[[Path], object]) -> None:
        self.work = work
        import_everything()
        self.good = work / "good"
        if in_fork(lambda: quietly(prepare, self.good)) != 0:
            raise SystemExit("The good inputs cannot be made")

    def run(self, case: Case) -> Outcome:
        """Run a case in a folder of its own, which is removed if nothing is wrong."""
        folder = self.work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case.make(folder)
        before = snapshot(folder)
        log = self.work / "log"
        start = time.monotonic()
        code = in_fork(lambda: self.child(case.command, folder, log), case.seconds)
        outcome = Outcome(case, code, time.monotonic() - start, log.read_text(errors="replace"))
        judge(outcome, before, snapshot(folder))
        return outcome

    def child(self, command: Iterable[str], folder: Path, log: Path) -> None:
        """Run a command in this process, which is a forked one."""
        os.chdir(folder)
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        for number in (signal.SIGINT, signal.SIGHUP):  # nohup, and a shell's background jobs, ignore them
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.environ.pop("MSAL_DEPLOY_TRACEBACK", None)
        command_line(command)


def judge(outcome: Outcome, before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> None:
    """Add what is wrong with an outcome to its faults."""
    case, text, faults = outcome.case, outcome.output, outcome.faults
    if outcome.code is None:
        faults.append(f"hang: more than {case.seconds:g} s")
        return
    if outcome.code not in case.exits:
        wanted = " or ".join(map(str, sorted(case.exits)))
        faults.append(f"exit code {outcome.code} instead of {wanted}")
    faults += [f"says {word!r}" for word in ("Traceback", "Unexpected") if word in text]
    errors = len(re.findall(r"^Error: ", text, re.MULTILINE))
    if errors != int(outcome.code in (2, 3, 70)) and not (outcome.code == 1 and errors <= 1):
        faults.append(f"{errors} lines with Error:")
    if outcome.code in (2, 3) and errors == 1 and len(text[text.index("Error: ") :].strip().splitlines()) > 1:
        faults.append("more lines after the error")
    faults += [f"changed or removed {name}" for name, entry in before.items() if after.get(name) != entry]
    new = [name for name in after if name not in before]
    if any(CANARY in name for name in after):
        faults.append("executed a payload")
    if outcome.code != 0:
        faults += [f"left {name}" for name in new[:3]]
    faults += [f"leftover {name}" for name in new if outcome.code == 0 and LEFTOVER.search(name)]


@dataclass
class Tally:
    """Counts of one script, for the table in docs/reliability.md."""

    tried: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0

    def add(self, kind: str, title: str, faults: list[str], output: str = "") -> None:
        """Count one try."""
        self.tried[kind] = self.tried.get(kind, 0) + 1
        if faults:
            self.failed.append({"case": title, "faults": faults, "output": output[-600:]})
            print(f"✗ {title}: {'; '.join(faults)}\n    {output.strip()[-300:]!r}", flush=True)

    def finish(self, json_file: Path | None, **more: object) -> int:
        """Print the counts, write them, and return the exit code."""
        for kind, number in self.tried.items():
            wrong = sum(str(one["case"]).startswith(f"{kind}:") for one in self.failed)
            print(f"{kind:<24} {number:>5} tried {wrong:>4} wrong")
        print(f"{sum(self.tried.values())} tried, {len(self.failed)} wrong, {self.seconds:.0f} s")
        if json_file is not None:
            report = {
                "format_version": 1,
                "command": command(),
                "tried": self.tried,
                "failed": self.failed,
                "seconds": round(self.seconds, 1),
            }
            json_file.write_text(json.dumps({**report, **more}, indent=2) + "\n")
        return int(bool(self.failed))


def command() -> str:
    """Return the command that is running, without --json, as a reader can repeat it."""
    words = sys.argv[1:]
    if "--json" in words:
        at = words.index("--json")
        words = words[:at] + words[at + 2 :]
    return shlex.join(["python", f"tests/soak/{Path(sys.argv[0]).name}", *words])
