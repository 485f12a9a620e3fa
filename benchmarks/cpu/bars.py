"""The proof as a picture."""

from pathlib import Path

from matplotlib.figure import Figure
from proof import BARE, INT8, LIMITS, TORCH, Proof

from msal_deploy.files import atomic_file

COLOURS = {"network": "#0f82c4", "ours": "#d55e00", "int8": "#22262b", "fp32": "#8a9099"}
STYLES = {"int8": (0, (4, 2)), "fp32": (0, (1, 2))}


def save_bars(proof: Proof, path: Path) -> None:
    """Draw the median latency of everything, with what the machine's arithmetic allows; the suffix says the format."""
    names = proof.engines
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(names)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    medians = [proof.p50(name) for name in names]
    colours = [COLOURS["ours" if name in (INT8, BARE) else "network"] for name in names]
    bars = axes.barh(names, medians, height=0.6, color=colours)
    labels = [f"{ms:.1f} ms, {proof.times(TORCH, name):.1f}×" for name, ms in zip(names, medians, strict=True)]
    # A limit may cross a label.
    axes.bar_label(bars, labels, padding=4, fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    for graph in LIMITS:
        ms = proof.limit_ms(graph)
        label = f"{graph.upper()} limit, {ms:.1f} ms"
        axes.axvline(ms, color=COLOURS[graph], lw=1.2, ls=STYLES[graph], label=label)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(medians))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"ms, one image of {proof.size} × {proof.size} px, {proof.threads} threads")
    axes.set_title(str(proof.environment["processor"]), loc="left", fontsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary)
