"""A report with every section, written by hand in the form that the stages write it; numbers differ, so that none
stands for another. Its pictures are drawn here: pink tissue with round nuclei.
"""

import numpy as np

from msal_deploy.data import Patch
from msal_deploy.report import Report, make_gallery

NETWORK = {"backbone": "resnet18", "dense_dilated": True, "channel_attention": True, "boundary_refinement": True}
MANIFEST = {
    "recipe": {"name": "paper", "network": NETWORK},
    "licence": "CC-BY-NC-SA-4.0",
    "versions": {"torch": "2.15.0", "onnx": "1.20"},
    "artifacts": {"checkpoint.safetensors": {"sha256": "0123456789abcdef" * 4, "made_from": []}},
}
STEMS = [
    f"TCGA-{name}-01A-01-TS1" for name in ("2Z-A9J9", "44-2665", "69-7764", "A6-6782", "AC-A2FO", "AO-A0J2", "CU-A0YN")
]
CORNERS = ("top-left", "bottom-right")
EMPTY = (STEMS[3], "bottom-right")  # a patch without a true nucleus
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


def delta(mean, spread):
    return {"mean": mean, "lower": mean - spread, "upper": mean + spread}


def per_patch(loss, flipped):
    """Return the rows of an engine that loses `loss`, a number for each image, against a reference."""
    rows = []
    for k, stem in enumerate(STEMS):
        for corner in CORNERS:
            dice = None if (stem, corner) == EMPTY else 0.78 + 0.01 * k + 0.003 * CORNERS.index(corner) - loss[k]
            values = {"dice": dice, "iou": dice and dice - 0.1, "aji": dice and dice - 0.15, "pq": dice and dice - 0.17}
            rows.append({"stem": stem, "corner": corner, **values, "flipped_pixels": flipped * (1 + k)})
    return rows


def check(name, passed=True, difference=1.25e-7, position=""):
    sentences = {
        "batch": "The same tile alone and in a batch differs",
        "crop": "A crop of 512 px differs from the same pixels inside a larger image",
        "repeat": "The same input gives the same output twice",
        "rebuild": "Two builds of the plan differ",
    }
    text = f"{sentences[name]}{' in ' + position if position else ''}: by {difference}."
    return {
        "name": name, "passed": passed, "max_abs_difference": difference, "position": position, "text": text,
        "tolerance": 1e-3, "mean_abs_difference": None, "mean_tolerance": None,
    }  # fmt: skip


def differences(flips, scale):
    edges = (0.0, 0.5, 1.0, 2.0, 4.0, None)
    pixels = (90_000, 80_000, 150_000, 240_000, 0)
    bins = zip(edges, edges[1:], pixels, [*flips, 0], strict=False)
    empty = {"from": 1.0, "to": 1.1, "pixels": 0, "predicted": None, "observed": None}
    return {
        "flips_by_distance": [
            {"from_um": low, "to_um": high, "pixels": count, "flipped": flipped,
             "share": flipped / count if count else None}
            for low, high, count, flipped in bins
        ] if flips else [],
        "quantiles": [{"share": share, "delta": scale * 10 ** (4 * share - 4)} for share in QUANTILES],
        "calibration": [
            {"from": k / 10, "to": (k + 1) / 10, "pixels": 1000 * (10 - k), "predicted": k / 10 + 0.05,
             "observed": min(1.0, (k / 10 + 0.05) ** 1.2 + scale / 10)}
            for k in range(10)
        ] + [empty],
        "expected_calibration_error": 0.02,
    }  # fmt: skip


def score(dice=0.8118, **changes):
    """Return the part of an engine that equals its reference, with `changes`."""
    averages = {"pixel_dice": dice, "pixel_iou": dice - 0.12, "aji": dice - 0.16, "pq": dice - 0.19}
    averages |= {"sq": dice - 0.05, "dq": dice - 0.02, "f1": dice - 0.01}
    means = {f"{name}_mean": value for name, value in averages.items()}
    pooled = {f"{name}_pooled": value + 0.004 for name, value in averages.items()}
    more = {"precision": dice - 0.03, "precision_pooled": dice - 0.031, "recall": dice + 0.05, "recall_pooled": 0.87}
    zero = delta(0.0, 0.0)
    return means | pooled | more | {
        "delta_dice": zero, "delta_iou": zero, "delta_aji": zero, "delta_pq": zero, "smallest_detectable_drop": 0.0,
        "max_abs_delta_probability": 0.0, "flipped_pixels": 0.0, "finite": True, "passed": True,
        "nuclei": {"true": 6700, "found": 6912, "split": 0, "merged": 0, "lost": 0, "gained": 0},
        "verdict": "within", "verdicts": {"dice": "within", "aji": "within"}, "images_to_decide": None,
        "worst_image": {"stem": STEMS[0], "delta_dice": 0.0}, "ruined_images": [], "failures": [],
        "checks": [check("batch"), check("crop", difference=2.5e-6), check("repeat", difference=0.0)],
        "differences": differences((), 0.0), "per_patch": per_patch([0.0] * 7, 0.0),
    } | changes  # fmt: skip


def engine(dice, loss, spread, flipped, scale, **changes):
    """Return the part of an engine that loses `loss` on average and twice that in the last image."""
    losses = [loss * k / 3 for k in range(7)]
    return score(
        dice,
        delta_dice=delta(-loss, spread), delta_iou=delta(-1.5 * loss, spread),
        delta_aji=delta(-1.2 * loss, 1.4 * spread), delta_pq=delta(-1.3 * loss, 1.6 * spread),
        smallest_detectable_drop=spread, flipped_pixels=4 * flipped, max_abs_delta_probability=scale,
        differences=differences([int(share * flipped * 1e5) for share in (90, 30, 9, 2)], scale),
        worst_image={"stem": STEMS[6], "delta_dice": -2 * loss}, per_patch=per_patch(losses, flipped),
    ) | changes  # fmt: skip


PASSED = engine(0.81142, 0.00038, 0.00071, 0.0003, 0.09)
UNDECIDED = engine(
    0.81052, 0.00128, 0.00154, 0.0006, 0.14, passed=False, verdict="undecided",
    verdicts={"dice": "undecided", "aji": "within"},
    images_to_decide=23, failures=["ΔDice is undecided: its bounds −0.0028 and +0.0003 are on both sides of −0.002."],
    nuclei={"true": 6700, "found": 6931, "split": 5, "merged": 8, "lost": 11, "gained": 13},
)  # fmt: skip
FAILED = engine(
    0.79821, 0.01359, 0.00641, 0.004, 0.62, passed=False, verdict="over", verdicts={"dice": "over", "aji": "over"},
    worst_image={"stem": STEMS[6], "delta_dice": -0.0412},
    ruined_images=[{"stem": STEMS[6], "delta_dice": -0.0412}, {"stem": STEMS[5], "delta_dice": -0.0234}],
    failures=[
        "Mean ΔDice is below −0.002 with 95% confidence.",
        f"2 images lost more than 0.02 Dice: {STEMS[6]}, {STEMS[5]}.",
        "Check batch failed at row 2 of a batch of 4.",
    ],
    nuclei={"true": 6700, "found": 7403, "split": 121, "merged": 87, "lost": 203, "gained": 344},
    checks=[check("batch", False, 0.41, "row 2 of a batch of 4"), check("crop", difference=3.5e-6), check("repeat")],
)  # fmt: skip
PASSED["nuclei"] = {"true": 6700, "found": 6909, "split": 3, "merged": 2, "lost": 6, "gained": 4}


def validation(engines=None, **changes):
    """Return the JSON of a validation of `engines`, by default one of each state."""
    if engines is None:
        same = score(max_abs_delta_probability=3.25e-6)
        engines = {"openvino:fp32": same, "openvino:int8": PASSED, "onnxruntime:fp16": UNDECIDED}
        engines |= {"onnxruntime:int8": FAILED}
    return {
        "reference": "torch:fp32", "patches": 14, "images": 7, "budget": 0.002, "confidence": 0.95, "threshold": 0.5,
        "label_convention": "vertices count from 1", "worst_image": 0.02, "budget_aji": 0.01, "budget_pq": None,
        "excludable_share": 0.348, "protocol": "corners", "patch": 512,
        "empty_patches": [{"stem": EMPTY[0], "corner": EMPTY[1]}],
        "protocols": [
            {"protocol": name, "patches": patches, "engines": {
                "torch:fp32": protocol_scores(0.8118 + k / 500), "openvino:int8": protocol_scores(0.8114 + k / 510)}}
            for k, (name, patches) in enumerate((("tiles", 7), ("resize", 7)), 1)
        ],
        "passed": all(one["passed"] for one in engines.values()),
        "engines": {"torch:fp32": score(), **engines},
    } | changes  # fmt: skip


def protocol_scores(dice):
    return {"pixel_dice_mean": dice, "pixel_iou_mean": dice - 0.12, "aji_mean": dice - 0.16, "pq_mean": dice - 0.19}


def timed(engine, batch, p50, speed_up):
    """Return a result of three processes with two windows each; the second process is slower."""
    windows = [p50 * factor for factor in (1, 1.002, 1.011, 1.013, 0.998, 1)]
    latency = {"p50": p50, "p90": p50 * 1.05, "p95": p50 * 1.08, "p99": p50 * 1.2, "mean": p50 * 1.02}
    return {
        "engine": engine, "batch": batch, "size": [512, 512], "latency_ms": latency, "images_per_s": 1000 * batch / p50,
        "megapixels_per_s": 262.144 * batch / p50, "coefficient_of_variation": 0.011, "runs": 41, "stable": True,
        "threads": None, "streams": 1, "square_millimetres_per_s": 16.384 * batch / p50, "window_medians_ms": windows,
        "windows_per_process": 2, "peak_memory_mb": 700 + p50, "load_s": p50 / 300,
        "speed_up": {"ratio": speed_up, "low": speed_up / spread(speed_up), "high": speed_up * spread(speed_up)},
    }  # fmt: skip


def spread(speed_up):
    """Return the width of an interval: that of the baseline itself is 1."""
    return 1 if speed_up == 1 else 1.03


P50 = {
    "torch:fp32": 241.3, "openvino:fp32": 118.4, "openvino:int8": 44.7, "onnxruntime:fp16": 260.8,
    "onnxruntime:int8": 83.2,
}  # fmt: skip
BENCH = {
    "schema": "msal-deploy bench 2", "baseline": "torch:fp32", "interrupted": False,
    "results": [
        timed(engine, batch, p50 * slower, P50["torch:fp32"] / p50)
        for batch, slower in ((1, 1), (4, 3.84)) for engine, p50 in P50.items()
    ],
    "failed": [{"engine": "torch-compile:fp32", "batch": 4, "message": "Its process ended with SIGKILL"}],
    "unavailable": [{"engine": "tensorrt:fp16", "needs": "an NVIDIA GPU"}],
    "environment": {
        "date": "2026-01-02T03:04:05+00:00", "processor": "Some CPU", "instructions": ["avx2", "avx512_vnni"],
        "gpus": [], "driver": None, "logical_cores": 2,
        "threads": {"default": 2, "cpu_quota": None, "affinity": 2}, "clock_mhz": 3100, "temperature_c": None,
        "memory_gib": 15.6, "load_average": [0.5, 0.25],
        "versions": {"numpy": "2.4.1", "openvino": "2026.1"},
    },
}  # fmt: skip


def layer(name, module, macs, precision):
    return {"name": name, "op": "Conv", "module": module, "macs": macs, "precision": precision, "moved_bytes": 1}


def trial(nodes, share, dice, mean, lower, latency):
    return {
        "float_nodes": [f"/network/head/{k}" for k in range(nodes)], "int8_share": share, "dice": dice,
        "delta_dice": {"mean": mean, "lower": lower, "upper": mean + 1e-4}, "latency_ms": latency,
    }  # fmt: skip


PRECISION = {
    "method": "minmax", "tiles": 40, "images": 21,
    "fp16": {"kept_fp32": ["/a", "/b"], "largest_value": 60123.4, "largest_tensor": "/add", "max_abs_delta": 0.0038},
    "int8": {
        "share_of_macs": 0.947, "float_nodes": ["/network/head/0", "/network/head/1", "/network/head/2"],
        "layers": [
            layer("/network/encoder/x/Conv", "encoder", 1_500_000_000, "int8"),
            layer("/network/head/0", "head", 330_000_000, "float"),
        ],
        "search": {
            "budget": 0.0005, "patches": 24, "images": 6, "chosen": 2,
            "ranking": [{"node": f"/network/head/{k}", "module": "head", "cost": 3e-4 - k / 1e5} for k in range(20)],
            "trials": [
                trial(0, 0.9999, 0.81123, -0.00071, -0.00131, 81.25), trial(2, 0.93, 0.81194, -0.0002, -0.00051, 90.5),
                trial(3, 0.91, 0.81201, -0.00013, -0.00049, 95.75),
            ],
        },
        "sensitivity": [
            {"dice": 0.8121, "delta_dice": delta(-0.00012, 0.00022)},
            {"dice": 0.8123, "delta_dice": delta(0.00011, 0.00026)},
        ],
    },
}  # fmt: skip
TRAINING = [
    {"epoch": k, "train_loss": 0.9 / k + 0.1, "validation_dice": 0.8 - 0.3 / k if k % 2 else None} for k in range(1, 20)
]


def node(name, module, gain, rounding, scale):
    return {
        "node": name, "module": module, "delta_dice": gain, "delta_dice_mean": gain / 2, "tensor": f"{name}_in",
        "scale_ratio": scale, "rounding_error": rounding, "tensor_error": 0.83, "added_error": 0.5, "share": 0.031,
    }  # fmt: skip


BISECT = {
    "engine": "onnxruntime:int8", "evaluated_on": "openvino:int8", "compared_on": "onnxruntime", "budget": 0.002,
    "reference": "torch:fp32", "patches": 12, "images": 6, "delta_dice": delta(-0.0131, 0.0052), "candidates": 45,
    "nodes": [
        node("/network/decoder/up1/Conv", "decoder.up1", 0.0117, 0.0213, 0.25),
        node("/network/head/head.2/Conv", "head.2", 0.0009, None, None),
        node("/network/encoder/l1/Conv", "encoder.l1", -0.0001, 0.0019, 1.04),
    ],
    "noise": 0.00035, "float_nodes": ["/network/decoder/up1/Conv"], "within_budget": delta(-0.0007, 0.0006),
    "cost": 0.031, "evaluations": 23,
}  # fmt: skip


def tissue(seed=0, side=160):
    """Return image, truth, a reference's mask and an engine's mask: discs of which the engine finds smaller ones."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centres, radii = rng.uniform(10, side - 10, (22, 2)), rng.uniform(5, 11, 22)
    distance = np.sqrt((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2)
    truth = (distance < radii).any(axis=2)
    expected, predicted = (distance < radii + 0.7).any(axis=2), (distance < radii - 0.8).any(axis=2)
    predicted[:20, :20] = True
    image = np.where(truth[..., None], (112, 74, 142), (228, 176, 204)) + rng.normal(0, 7, (side, side, 3))
    return image.clip(0, 255).astype(np.uint8), truth, expected, predicted


def patches(values):
    """Return the patches of a validation and the masks of its engines. Images are padded, as those of small images."""
    rows = values["engines"][values["reference"]]["per_patch"]
    drawn = [tissue(index) for index in range(len(rows))]
    padding = ((0, 32), (0, 32), (0, 0))
    cut = [
        Patch(row["stem"], row["corner"], np.pad(image, padding), truth)
        for row, (image, truth, _, _) in zip(rows, drawn, strict=True)
    ]
    masks = {name: [predicted for _, _, _, predicted in drawn] for name in values["engines"]}
    return cut, masks | {values["reference"]: [expected for _, _, expected, _ in drawn]}


def gallery(values, weights=""):
    return make_gallery(values, *patches(values), weights=weights)


def full_report(**changes):
    """Return a report with every section, with `changes`."""
    values = validation()
    parts = {
        "title": "Parity and latency", "manifest": MANIFEST, "validation": values, "bench": BENCH,
        "precision": PRECISION, "training": tuple(TRAINING), "gallery": gallery(values), "bisect": BISECT,
        "data": "the test images of MoNuSeg", "command": "msal-deploy run --data monuseg --out runs/shipped",
        "notes": ("Scanned at 40×.",),
    }  # fmt: skip
    return Report(**parts | changes)
