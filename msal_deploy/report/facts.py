"""The sections on what was run and where."""

from collections.abc import Mapping, Sequence
from typing import Any

from msal_deploy.bundle import CHECKPOINT
from msal_deploy.report.formatting import Json, patches_of_images
from msal_deploy.report.inputs import Report

PROTOCOLS = {
    "corners": "the paper’s protocol: the four corners of each image",
    "tiles": "whole images, by overlapping tiles",
    "resize": "whole images, resized to one patch",
}
BLOCKS = {
    "dense_dilated": "dense dilated convolutions",
    "channel_attention": "channel attention",
    "boundary_refinement": "boundary refinement",
}
LABELS = {  # of the machine, where the key with spaces would not do
    "gpus": "GPUs",
    "memory_gib": "memory GiB",
    "memory_limit_gib": "memory limit, GiB",
    "busy_before": "share of the cores that was busy before",
    "clock_mhz": "clock, MHz",
    "temperature_c": "temperature, °C",
    "power_w": "power, W",
    "gpu_temperature_c": "GPU temperature, °C",
    "gpu_power_w": "GPU power, W",
}


def facts(report: Report) -> dict[str, str]:
    """Return the rows of the section on the network and the data, as label -> text."""
    manifest, validation = report.manifest, report.validation
    rows = {
        "Weights": report.weights if report.also else "",
        "Network": _network(manifest),
        "Recipe": manifest["recipe"]["name"],
        "Checkpoint": _checkpoint(manifest),
        "Licence of the weights": manifest["licence"],
        "Test data": report.data,
        "Labels": validation["label_convention"] if validation else "",
        "Scored": _scored(validation) if validation else "",
    } | _other_weights(report.also)
    return {label: text for label, text in rows.items() if text}


def _scored(validation: Json) -> str:
    size = f"{validation['patch']} px, " if validation["protocol"] == "corners" else ""
    protocol = PROTOCOLS.get(validation["protocol"], validation["protocol"])
    return f"{patches_of_images(validation)}, {size}threshold {validation['threshold']:g}; {protocol}"


def _network(manifest: Json) -> str:
    network = manifest["recipe"]["network"]
    if network.get("model", "msal-net") != "msal-net":
        return str(network["model"])
    blocks = [text for block, text in BLOCKS.items() if network[block]]
    return f"MSAL-Net, {network['backbone']} with {', '.join(blocks) or 'none of the paper’s three blocks'}"


def _checkpoint(manifest: Json) -> str:
    checkpoint = manifest["artifacts"].get(CHECKPOINT)
    return f"SHA-256 {checkpoint['sha256'][:12]}…" if checkpoint else ""


def _other_weights(also: Sequence[Json]) -> dict[str, str]:
    """Return a row for each of the other weights, as label -> text."""
    return {
        f"Also {one['weights']}": "; ".join(
            filter(None, (_network(one["manifest"]), _checkpoint(one["manifest"]), one["manifest"]["licence"]))
        )
        for one in also
    }


def environment(manifest: Json, bench: Json | None) -> dict[str, str]:
    """Return the machine of the benchmark and the versions that exported the bundle, as label -> text."""
    measured = {key: value for key, value in (bench["environment"] if bench else {}).items() if value is not None}
    rows = {LABELS.get(key, key.replace("_", " ")): _plain(value) for key, value in measured.items()}
    return rows | {"versions that exported the bundle": _plain(manifest["versions"])}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, text in value.items() if text is not None) or "none"
    return (", ".join(str(item) for item in value) or "none") if isinstance(value, list | tuple) else str(value)
