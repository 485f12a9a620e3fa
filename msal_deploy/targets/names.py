"""GPU names as people write them: ``NVIDIA GeForce RTX 3090``, ``RTX3090``, ``sm86``, ``8.6``."""

import difflib
import re
from collections.abc import Mapping

# What drivers and shops write around the name of a model, and the form and memory of a card, which change no plan.
VENDORS = re.compile(r"nvidia|geforce|tesla|quadro")
FORM = re.compile(r"(sxm\d?|pcie|hbm\d?e?|nvl|\d+gb?)+\Z")
CAPABILITY = re.compile(
    r"(?:(?:sm|compute|cc)[ _-]?)?(\d{1,2})\.(\d)|(?:sm|compute|cc)[ _-]?(\d{1,2})(\d)[a-z]?", re.IGNORECASE
)
# Compute capability -> other GPUs that have it, for a hint (https://developer.nvidia.com/cuda-gpus).
OTHERS = {
    "5.2": "m4 m40 m60 gtx970 gtx980 gtx980ti gtxtitanx",
    "6.0": "p100 gp100",
    "6.1": "p4 p6 gtx1050 gtx1050ti gtx1060 gtx1080 titanx titanxp p1000 p2000 p4000 p5000 p6000",
    "7.0": "titanv gv100 v100s",
    "7.5": "gtx1630 gtx1650 gtx1660 gtx1660ti rtx2060 rtx2070 rtx2080 titanrtx rtx3000 rtx4000 rtx5000 rtx6000 rtx8000",
    "8.0": "a30 a100x a800",
    "8.6": "a2 a10 a10g a10m a16 a40 rtx3050 rtx3060 rtx3060ti rtx3070 rtx3070ti rtx3080 rtx3080ti rtx3090ti rtxa2000 "
    "rtxa4000 rtxa4500 rtxa5000 rtxa5500 rtxa6000 a2000 a4000 a4500 a5000 a6000",
    "8.7": "orin jetsonorin jetsonagxorin agxorin orinnano orinnx",
    "8.9": "l20 l40 l40s rtx4050 rtx4060 rtx4060ti rtx4070 rtx4070ti rtx4070super rtx4080 rtx4080super rtx4090d "
    "rtx4000ada rtx5000ada rtx6000ada rtx2000ada",
    "9.0": "gh200 h800 h20 h100x",
    "10.0": "b100 b200 gb200",
    "10.3": "b300 gb300",
    "11.0": "thor jetsonthor",
    "12.0": "rtx5050 rtx5060 rtx5060ti rtx5070 rtx5070ti rtx5080 rtx5090d rtxpro4000 rtxpro5000 rtxpro6000",
    "12.1": "gb10 dgxspark",
}


def plain_name(text: str) -> str:
    """Return the name of a GPU in lower-case letters and digits, without vendor, form and memory.

    >>> plain_name("NVIDIA GeForce RTX 3090"), plain_name("Tesla V100-SXM2-16GB"), plain_name("rtx-3090")
    ('rtx3090', 'v100', 'rtx3090')
    """
    letters = re.sub(r"[^a-z0-9]+", " ", text.lower())
    words = VENDORS.sub(" ", letters).split()
    while len(words) > 1 and FORM.fullmatch(words[-1]):
        words.pop()
    return "".join(words).removesuffix("gpu")


def written_capability(text: str) -> str | None:
    """Return the compute capability that a text spells, such as ``8.6`` for ``sm_86``; None if it spells none.

    >>> [written_capability(text) for text in ("8.6", "sm86", "SM_120", "compute_90a", "rtx-3090")]
    ['8.6', '8.6', '12.0', '9.0', None]
    """
    match = CAPABILITY.fullmatch(text.strip())
    if match is None:
        return None
    major, minor = (match[1], match[2]) if match[1] else (match[3], match[4])
    return f"{int(major)}.{minor}"


def remedy_for(text: str, capability_of: Mapping[str, str]) -> str:
    """Return what to do about an unknown name. A GPU is suggested only if the plan would load on it.

    >>> known = {"a100": "8.0", "rtx-3090": "8.6", "gtx-1080-ti": "6.1"}
    >>> remedy_for("a10", known)
    "it has compute capability 8.6: write a target file with like = 'rtx-3090' (see docs/tensorrt-plans.md), or use --gpu 8.6"
    >>> remedy_for("gxt-1080-ti", known)
    "did you mean 'gtx-1080-ti'?"
    >>> remedy_for("a101", known)
    "choose from: a100, gtx-1080-ti, rtx-3090; or write a target file with like = 'rtx-3090' (see docs/tensorrt-plans.md)"

    Args:
        text: The name.
        capability_of: The known names with their compute capability.
    """
    plain = plain_name(text)
    capability = next((sm for sm, names in OTHERS.items() if plain in names.split()), None)
    same = [name for name, sm in capability_of.items() if sm == capability]
    if same:
        hint = f"write a target file with like = {same[0]!r} (see docs/tensorrt-plans.md), or use --gpu {capability}"
        return f"it has compute capability {capability}: {hint}"
    if capability is None and (close := _mistyped(plain, capability_of)):
        return f"did you mean {close!r}?"
    own = "write a target file with like = 'rtx-3090' (see docs/tensorrt-plans.md)"
    return f"choose from: {', '.join(sorted(capability_of))}; or {own}"


def _mistyped(plain: str, names: Mapping[str, str]) -> str | None:
    """Return the name with the same digits and nearly the same letters: other digits are another GPU."""
    letters, digits = re.sub(r"\d", "", plain), re.sub(r"\D", "", plain)
    same = {
        re.sub(r"\d", "", plain_name(name)): name for name in names if re.sub(r"\D", "", plain_name(name)) == digits
    }
    close = difflib.get_close_matches(letters, [key for key in same if len(key) > 1], n=1, cutoff=0.5) if digits else []
    return same[close[0]] if close else None
