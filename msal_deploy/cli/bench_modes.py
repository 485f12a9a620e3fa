"""Which options of ``msal-deploy bench`` go together: some of them start another mode than timing engines in turns."""

from collections.abc import Iterable
from typing import NamedTuple

import typer

from msal_deploy.errors import BadInput

ALWAYS = {"bundle", "engine", "json"}


class Mode(NamedTuple):
    """A mode of bench.

    Attributes:
        starts: The parameters that start it.
        takes: The parameters that it takes beside them and `ALWAYS`.
    """

    starts: tuple[str, ...]
    takes: frozenset[str]


def _mode(starts: str, takes: str) -> Mode:
    return Mode(tuple(starts.split()), frozenset(takes.split()))


IN_TURNS = _mode(
    "", "baseline batch threads streams size images seconds windows rounds in_process csv markdown compare suite"
)
MODES = (
    _mode("tune", "size seconds windows rounds in_process csv markdown"),
    _mode("in_flight rate p99_under", "arrivals plot batch threads streams size images seconds"),
    _mode("roofline", "plot batch threads size images seconds windows rounds"),
    _mode("predict", "predict_format timeline batch threads rounds"),
)


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether the user gave a value for a parameter, rather than having its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def check_combination(context: typer.Context) -> None:
    """Raise `BadInput` if an option was given that the mode does not take."""
    names = (str(parameter.name) for parameter in context.command.params)
    given = [name for name in names if is_given(context, name)]
    mode = next((mode for mode in MODES if set(mode.starts) & set(given)), IN_TURNS)
    wrong = [name for name in given if name not in {*ALWAYS, *mode.starts, *mode.takes}]
    if not wrong:
        return
    if starts := [name for name in mode.starts if name in given]:
        raise BadInput(f"{_options(starts)} cannot be combined with {_options(wrong)}", "leave out one of them")
    needed = _options(name for other in MODES if wrong[0] in other.takes for name in other.starts)
    raise BadInput(f"{_options(wrong[:1])} needs {needed}", "give one of them")


def _options(names: Iterable[str]) -> str:
    """Return the options of parameters: ``--a, --b or --c``."""
    *others, last = (f"--{name.replace('_', '-')}" for name in names)
    return f"{', '.join(others)} or {last}" if others else last
