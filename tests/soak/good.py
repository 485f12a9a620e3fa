"""The valid inputs that the cases damage: a small bundle, a data set, checkpoints. They are made once."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from stage import command_line

RECIPE = """
name = "tiny"
[network]
backbone = "resnet18"
weights = "random"
[train]
patch = 64
epochs = 2
batch = 4
patches_per_image = 4
validation = 0.34
[train.augment]
crop = "random"
rotate = 0.0
shift = 0.0
shear = 0.0
zoom = [0.8, 1.25]
"""
ENGINE = "openvino:fp32"
REFERENCE = ("--reference", "onnxruntime:fp32")
PLAN = "model.fp32.sm86.tensorrt-rtx.plan"


def make(folder: Path) -> None:
    """Write `bundle`, `data`, `image.png`, `image.tif`, `recipe.toml`, `target.toml` and `weights.safetensors`."""
    from PIL import Image

    from msal_deploy.data import synthesize
    from msal_deploy.targets import target_names

    folder.mkdir(parents=True)
    synthesize(folder / "data", train=2, test=2, size=256, seed=1)
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(image).save(folder / "image.tif")
    Image.fromarray(image).save(folder / "image.jpg")
    (folder / "recipe.toml").write_text(RECIPE)
    from importlib import resources

    text = resources.files("msal_deploy.targets").joinpath(f"{target_names()[0]}.toml").read_text()
    (folder / "target.toml").write_text(text)
    make_bundle(folder / "bundle")
    make_checkpoint(folder)
    make_results(folder)


def make_bundle(folder: Path) -> None:
    """Write the tiny bundle with golden tensors, calibration tiles and a plan that nothing can load."""
    import msgspec
    from fuzz import plan_metadata
    from tiny_bundle import put_graph, tiny_graph, write_tiny_bundle

    from msal_deploy.export import example_images
    from msal_deploy.files import sha256
    from msal_deploy.runtimes import open_engine
    from msal_deploy.trt.plan_metadata import metadata_path, write_metadata

    bundle = write_tiny_bundle(folder)
    for precision in ("fp32", "fp16"):
        bundle = put_graph(bundle, f"model.{precision}.onnx", tiny_graph(precision, seed=3, gain=2 / 255))
    (folder / "golden").mkdir()
    images = example_images(2, 256, 256)
    with open_engine(bundle, "onnxruntime:fp32", threads=1) as engine:
        for name, array in (("image", images), ("probability", engine(images))):
            np.save(folder.with_name("array.npy"), array)
            bundle = put_graph(bundle, f"golden/{name}.npy", folder.with_name("array.npy"))
    folder.with_name("array.npy").unlink()
    tiles = {"method": "minmax", "side": 256, "images": {"drawn": "0" * 64}, "tiles": [["drawn", 0, 0, "1" * 64]]}
    folder.with_name("calibration.json").write_text(json.dumps(tiles))
    bundle = put_graph(bundle, "calibration.json", folder.with_name("calibration.json"))
    plan = folder.with_name("plan")
    plan.write_bytes(b"a plan" * 100)
    bundle = put_graph(bundle, PLAN, plan)
    metadata = msgspec.structs.replace(
        plan_metadata(),
        graph_sha256=sha256(folder / "model.fp32.onnx"),
        plan_sha256=sha256(plan),
        bytes=plan.stat().st_size,
    )
    write_metadata(plan, metadata)
    put_graph(bundle, f"{PLAN}.json", metadata_path(plan))
    metadata_path(plan).unlink()
    for name in ("calibration.json", "plan"):
        folder.with_name(name).unlink()


def make_checkpoint(folder: Path) -> None:
    """Write a safetensors file with an untrained network's weights, and the same as a pickle."""
    import torch

    from msal_deploy.checkpoint import save_checkpoint, untrained
    from msal_deploy.recipe import Recipe

    checkpoint = untrained(Recipe.load(folder / "recipe.toml"))
    save_checkpoint(folder / "weights.safetensors", checkpoint)
    torch.save(dict(checkpoint.weights), folder / "weights.pt")


def make_results(folder: Path) -> None:
    """Write a run folder of two epochs, and the folder of a validation."""
    for command in (
        ("train", "--data", "data", "--recipe", "recipe.toml", "--out", "run"),
        ("validate", "bundle", "--data", "data", "--patch", "256", *REFERENCE, "--engine", ENGINE, "--out", "report"),
    ):
        os.chdir(folder)
        with contextlib.suppress(SystemExit):
            command_line(command)
        assert (folder / command[-1]).is_dir(), command


def link(source: Path, target: Path) -> None:
    """Make `target` the same file or folder as `source`, by hard links: it must be replaced, never written into."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def replace(path: Path, content: bytes) -> None:
    """Replace a file that may be a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
