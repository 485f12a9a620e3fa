"""Number and text formats of the HTML page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msal_deploy import metrics

Json = Mapping[str, Any]


def minus(text: str) -> str:
    """Replace the hyphens before numbers by minus signs, which are as wide as a digit.

    >>> minus("-0.5"), minus("between -0.001 and 2e-06"), minus("TCGA-44")
    ('−0.5', 'between −0.001 and 2e−06', 'TCGA-44')
    """
    return re.sub(r"(?<![^\s(e])-(?=[\d.])", "−", text)


def signed(value: float) -> str:
    """Format a difference with its sign and four decimals.

    >>> signed(-0.00123), signed(3.14e-06), signed(0)
    ('−0.0012', '+3.1e−06', '0')
    """
    return minus(metrics.signed(value))


def fine(value: float) -> str:
    """Format a difference with its sign and five decimals, for budgets too small for four.

    >>> fine(-0.000123), fine(0)
    ('−0.00012', '0')
    """
    return minus(f"{value:+.5f}" if abs(value) >= 5e-6 else f"{value:+.1e}") if value else "0"


def scientific(value: float) -> str:
    """Format a number with two digits and an exponent.

    >>> scientific(0.00123)
    '1.2e−03'
    """
    return minus(f"{value:.1e}") if value else "0"


def share(value: float) -> str:
    """Format a share from 0 to 1 in percent. Only exactly 0 and 1 are 0% and 100%.

    >>> share(0.123), share(0.99999), share(1)
    ('12.3%', '>99.9%', '100%')
    """
    text = f"{value:.1%}"
    if value in (0, 1):
        return f"{value:.0%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(text, text)


def count(number: int, one: str, many: str | None = None) -> str:
    """Format a number of things.

    >>> count(1, "image"), count(2, "patch", "patches")
    ('1 image', '2 patches')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def capital(text: str) -> str:
    """Return a text with a capital first letter and the rest as it is.

    >>> capital("boundary F1")
    'Boundary F1'
    """
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """Return names as a list within a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def patches_of_images(scored: Json) -> str:
    """Format the size of a test set.

    >>> patches_of_images({"patches": 56, "images": 14})
    '56 patches of 14 images'
    """
    return f"{count(scored['patches'], 'patch', 'patches')} of {count(scored['images'], 'image')}"


def other_engines(validation: Json) -> dict[str, Json]:
    """Return the engines of a validation other than the reference, with their scores.

    >>> other_engines({"reference": "a", "engines": {"a": {}, "b": {"passed": True}}})
    {'b': {'passed': True}}
    """
    return {name: score for name, score in validation["engines"].items() if name != validation["reference"]}


def result_names(results: Sequence[Json]) -> list[str]:
    """Return a name for each bench result: the engine, with threads and streams if they differ between results.

    >>> result_names([{"engine": "openvino:int8", "threads": 1}, {"engine": "openvino:int8", "threads": 2}])
    ['openvino:int8, 1 thread', 'openvino:int8, 2 threads']
    """
    swept = [key for key in ("threads", "streams") if len({row.get(key) for row in results}) > 1]
    return [", ".join([row["engine"], *(_setting(row, key) for key in swept)]) for row in results]


def _setting(row: Json, key: str) -> str:
    return count(row[key], key.removesuffix("s")) if row[key] else f"{key} by its runtime"
