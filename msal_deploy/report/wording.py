"""How the page writes numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from msal_deploy import metrics

Json = Mapping[str, Any]


def minus(number: str) -> str:
    """Write the sign of a negative number as a minus, which is as wide as a digit."""
    return number.replace("-", "−")


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return minus(metrics.signed(value))


def fine(value: float) -> str:
    """Write a difference with its sign and five digits, for budgets that four cannot tell apart."""
    return minus(f"{value:+.5f}" if abs(value) >= 5e-6 else f"{value:+.1e}") if value else "0"


def scientific(value: float) -> str:
    """Write two digits and a power of ten."""
    return minus(f"{value:.1e}") if value else "0"


def share(value: float) -> str:
    """Write a share of 0 to 1 in per cent; 0% and 100% are none and all, and nothing that is only close to them."""
    text = f"{value:.1%}"
    if value in (0, 1):
        return f"{value:.0%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(text, text)


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a number of things: ``1 patch``, ``2 patches``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def sample(scored: Json) -> str:
    """Write what was scored: ``56 patches of 14 images``."""
    return f"{count(scored['patches'], 'patch', 'patches')} of {count(scored['images'], 'image')}"


def settings(results: Sequence[Json]) -> list[str]:
    """Return the engine of each bench result, with threads and streams where more than one setting was measured."""
    swept = [key for key in ("threads", "streams") if len({row.get(key) for row in results}) > 1]
    return [", ".join([row["engine"], *(_setting(row, key) for key in swept)]) for row in results]


def _setting(row: Json, key: str) -> str:
    return count(row[key], key.removesuffix("s")) if row[key] else f"{key} by its runtime"
