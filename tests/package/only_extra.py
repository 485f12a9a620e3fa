"""Run msal-deploy as in an environment with one extra of msal-deploy and nothing else.

    python only_extra.py EXTRA WORD … [; WORD …]

Everything that neither the base requirements nor those of EXTRA need, directly or not, cannot be imported. EXTRA may be
empty. Prints ``exit code N`` after the output of each command.
"""

import os
import sys
import tomllib
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def required(extra: str) -> set[str]:
    """Return the names of all distributions that an installation with `extra` has, if they are installed here."""
    texts = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in texts]
    while waiting:
        requirement, wanted = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        for chosen in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), chosen)
            if key not in found:
                found.add(key)
                waiting += [(Requirement(text), chosen) for text in _requires(requirement.name)]
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def hidden(extra: str) -> set[str]:
    """Return the top-level modules of all other distributions."""
    names = required(extra) | {"msal-deploy"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not names & {canonicalize_name(owner) for owner in owners}
    }


def hide(modules: set[str]) -> None:
    """Let imports of `modules` fail as if they were not installed."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] in modules else super().find_spec(fullname, path, target)

    sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]


def main() -> None:
    extra, *words = sys.argv[1:]
    hide(hidden(extra))
    from msal_deploy.__main__ import main as msal_deploy

    for command in " ".join(words).split(" ; "):
        sys.argv = ["msal-deploy", *command.split()]
        try:
            msal_deploy()
            code = 0
        except SystemExit as ended:
            code = ended.code
        print("exit code", code, flush=True)


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    main()
