"""The verdict at the top of the page: which engine may be used, what it costs, how sure that is, what was not shown."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msal_deploy.report.formatting import Json, capital, count, listed, minus, patches_of_images, share, signed

State = Literal["passed", "failed", "undecided"]
MARKS = {"passed": "✓ passed", "failed": "✗ failed", "undecided": "? undecided"}
NOT_VALIDATED = "No engine was compared with a reference."
MEASURES = {"delta_dice": "Dice", "delta_aji": "AJI", "delta_pq": "PQ"}


def engine_state(score: Json) -> State:
    """Return whether an engine passed, failed, or is undecided: too few images are the only reason not to pass.

    >>> score = {"passed": False, "verdicts": {"dice": "undecided"}, "failures": ["its loss of Dice is undecided"]}
    >>> engine_state(score), engine_state(score | {"verdicts": {"dice": "over"}})
    ('undecided', 'failed')

    Args:
        score: An engine's part of `ValidationReport.to_json`.
    """
    if score["passed"]:
        return "passed"
    # Each undecided verdict is one failure; any other failure was found against the engine.
    undecided = list(score["verdicts"].values()).count("undecided")
    return "undecided" if 0 < undecided == len(score["failures"]) else "failed"


def mark(state: State, *, finite: bool, is_reference: bool) -> str:
    """Return the state of an engine for a table: a sign, which needs no colour, and a word.

    >>> mark("undecided", finite=True, is_reference=False)
    '? undecided'
    """
    if not finite:
        return "✗ not finite"
    return "reference" if is_reference and state != "failed" else MARKS[state]


def compared(validation: Json) -> dict[str, Json]:
    """Return the engines other than the reference, and the reference too if something is wrong with it."""
    reference, engines = validation["reference"], validation["engines"]
    return {
        engine: score for engine, score in engines.items() if engine != reference or engine_state(score) == "failed"
    }


def verdict(validations: Mapping[str, Json], rows: Sequence[Json] = ()) -> dict[str, Any]:
    """Return the template variables of the verdict: ``state``, ``headline``, ``scope``, ``engines``, ``limits``.

    Args:
        validations: Name of the weights -> the value of `ValidationReport.to_json`. Several are told apart by name.
        rows: The value of `accuracy_latency`, for the speed of the engines.
    """
    several = len(validations) > 1

    def named(name: str, text: str) -> str:
        return f"{name}: {text}" if several else text

    return {
        "state": _worst_state(validations),
        "headline": "; ".join(named(name, _headline(one)) for name, one in validations.items()) or "Not validated",
        "scope": [named(name, _scope(one)) for name, one in validations.items()] or [NOT_VALIDATED],
        "engines": [
            _engine(score, one)
            | {"name": named(name, engine), "speed": _speed(engine, name if several else None, rows)}
            for name, one in validations.items()
            for engine, score in compared(one).items()
        ],
        "limits": [named(name, text) for name, one in validations.items() for text in _limits(one)],
    }


def _worst_state(validations: Mapping[str, Json]) -> str:
    states = [engine_state(score) for one in validations.values() for score in compared(one).values()]
    if not validations:
        return "none"
    return next((state for state in ("failed", "undecided") if state in states), "passed")


def _headline(validation: Json) -> str:
    """Return which engines may replace the reference."""
    reference, engines = validation["reference"], compared(validation)
    by_state = {state: [name for name in engines if engine_state(engines[name]) == state] for state in MARKS}
    passed, failed, undecided = (by_state[state] for state in ("passed", "failed", "undecided"))
    if not engines:
        return f"{reference} was scored alone"
    if len(passed) == len(engines) > 1:
        return f"{'Both' if len(passed) == 2 else f'All {len(passed)}'} engines may replace {reference}"
    parts = [f"{listed(passed)} may replace {reference}"] if passed else []
    parts += [f"{listed(failed)} may not{'' if passed else f' replace {reference}'}"] if failed else []
    parts += [f"undecided: {listed(undecided)}"] if undecided else []
    return "; ".join(parts)


def _scope(validation: Json) -> str:
    # Parity with a poor reference says little, so its Dice is shown as well.
    dice = validation["engines"][validation["reference"]]["pixel_dice_mean"]
    return (
        f"Judged on {patches_of_images(validation)}, where {validation['reference']} has a Dice of {dice:.4f}. "
        f"Budget: a mean loss of {validation['budget']:g} Dice, at {validation['confidence']:.0%} confidence"
        + "".join(
            f", and of {validation[key]:g} {name}"
            for key, name in (("budget_aji", "AJI"), ("budget_pq", "PQ"))
            if validation[key] is not None
        )
        + f"; in no image more than {validation['worst_image']:g} Dice."
    )


def _engine(score: Json, validation: Json) -> dict[str, Any]:
    state = engine_state(score)
    costs = ", ".join(f"{name} {signed(score[key]['mean'])}" for key, name in MEASURES.items())
    return {
        "state": state,
        "mark": MARKS[state],
        "judged": _judged(score, validation),
        "costs": f"On average: {costs}.",
        "worst": _worst_image(score["worst_image"]),
        "failures": [capital(minus(text)) for text in score["failures"]],
    }


def _judged(score: Json, validation: Json) -> str:
    """Return one sentence: the verdict on ΔDice and what it rests on."""
    if not score["finite"]:
        return "Its probabilities are not finite."
    lost = {bound: _loss(score["delta_dice"][bound]) for bound in ("lower", "upper")}
    sure = f"with {validation['confidence']:.0%} confidence"
    if score["verdict"] == "within":
        within = f"loses at most {lost['lower']} Dice" if score["delta_dice"]["lower"] < 0 else "loses no Dice"
        return f"Within budget: {sure}, it {within} on average."
    if score["verdict"] == "over":
        return f"Over budget: {sure}, it loses at least {lost['upper']} Dice on average."
    return (
        f"Undecided: {count(validation['images'], 'image')} cannot show whether it loses more than "
        f"{validation['budget']:g} Dice on average. {_more_images(score)}"
    )


def _more_images(score: Json) -> str:
    if score["images_to_decide"] is None:
        return "More images may not decide either: the loss is close to the budget."
    return f"About {count(score['images_to_decide'], 'image')} would decide."


def _loss(delta: float) -> str:
    """Format a negative difference as a loss, without sign.

    >>> _loss(-0.00123)
    '0.0012'
    """
    return signed(-delta).removeprefix("+")


def _worst_image(worst: Json | None) -> str:
    return f"Worst image: {worst['stem']} (Dice {signed(worst['delta_dice'])})." if worst else ""


def _speed(engine: str, weights: str | None, rows: Sequence[Json]) -> str:
    found = (row for row in rows if row["engine"] == engine and row.get("weights") == weights)
    row = next(found, None)
    if row is None:
        return ""
    ratio = f", {row['speed_up']:.1f}× as fast" if row["speed_up"] else ""
    return f"{row['latency_ms_p50']:.1f} ms for {count(row['batch'], 'image')}{ratio}."


def _limits(validation: Json) -> list[str]:
    """Return what the images show about ruined ones, and what so few of them cannot show."""
    engines, images, limit = compared(validation), validation["images"], validation["worst_image"]
    ruined = {name: score["ruined_images"] for name, score in engines.items() if score["ruined_images"]}
    named = [
        f"{name} ruined {len(rows)} of {count(images, 'image')}: it lost more than {limit:g} Dice in "
        + ", ".join(f"{row['stem']} ({signed(row['delta_dice'])})" for row in rows)
        + "."
        for name, rows in ruined.items()
    ]
    if len(ruined) == len(engines):
        return named
    by = "by the other engines" if ruined else "by any engine" if len(engines) > 1 else "by it"
    return [
        *named,
        f"None of {count(images, 'image')} was ruined {by} (a loss of more than {limit:g} Dice), which excludes at "
        f"{validation['confidence']:.0%} confidence that more than {share(validation['excludable_share'])} of such "
        "images are. A rarer failure can go unseen.",
    ]
