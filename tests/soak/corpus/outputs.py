"""Options and outputs."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from good import ENGINE, REFERENCE
from stage import Case

from corpus.damage import oddities, write


def options(source: Path) -> Iterator[Case]:
    bundle, data = "../good/bundle", "../good/data"
    bench = ("bench", bundle, "-e", ENGINE)
    validate = ("validate", bundle, "--data", data, *REFERENCE, "-e", ENGINE)
    train = ("train", "--data", data, "--recipe", "../good/recipe.toml", "--out", "r")
    predict = ("predict", "../good/image.png", "--bundle", bundle, "--out", "o")
    export = ("export", "../good/weights.safetensors", "--out", "b")
    numbers = {
        bench: ("--batch", "--threads", "--streams", "--size", "--seconds", "--windows"),
        validate: ("--budget", "--worst-image", "--patch", "--threads", "--budget-aji"),
        train: ("--epochs", "--rate", "--seed", "--devices", "--workers"),
        predict: ("--mpp", "--threads", "--tile", "--batch", "--workers"),
        export: ("--budget", "--tiles"),
        ("data", "synthesize", "d"): ("--train", "--test", "--size", "--seed"),
    }
    hostile = ("-1", "nan", "-inf", "", "many", "9" * 400, "1e999", "०", "1;touch PWNED")
    for (command, names), value in itertools.product(numbers.items(), hostile):
        for name in names:
            yield Case("options", f"{name} {value[:12]!r}", (*command, name, value))
    texts = ("", " ", "\x00".replace("\x00", "\x01"), "$(touch PWNED)", "../..", "é" * 300, "-", "\udcff")
    choices = {
        ("bench", bundle): ("-e",),
        validate: ("--protocol", "--reference"),
        train: ("--model", "--backbone", "--accelerator"),
        predict: ("-e", "--format"),
        export: ("--recipe", "--method"),
        ("package", bundle, "cpp", "--out", "o"): ("--precision", "--gpu", "--backend"),
        ("doctor",): ("--gpu",),
    }
    for (command, names), value in itertools.product(choices.items(), texts):
        for name in names:
            yield Case("options", f"{name} {value[:12]!r}", (*command, name, value))
    paths = ("", "nowhere", "/dev/null", "/proc/self/mem", "/proc/self/fd", "a\nb", "x" * 300, "\udcff")
    for value in paths:
        yield Case("options", f"a bundle at {value[:12]!r}", ("bench", value))
        yield Case("options", f"data at {value[:12]!r}", ("data", "verify", value))
        yield Case("options", f"an image at {value[:12]!r}", ("predict", value, "--out", "o"))
        yield Case("options", f"calibration at {value[:12]!r}", (*export, "--int8", "--calibration", value))
        yield Case("options", f"weights at {value[:12]!r}", ("export", value, "--out", "b"))
    yield Case("options", "no command", ("nonsense",))
    yield Case("options", "an unknown option", (*bench, "--nonsense"))


def device(folder: Path) -> None:
    """Make a node of /dev/null in the case's own folder."""
    os.mknod(folder / "x", 0o20666, os.makedev(1, 3))


def outputs(source: Path) -> Iterator[Case]:
    commands: dict[str, tuple[str, ...]] = {
        "doctor --json": ("doctor", "--gpu", "rtx-3090", "--json"),
        "doctor --requirements": ("doctor", "--gpu", "rtx-3090", "--requirements"),
        "doctor --dockerfile": ("doctor", "--gpu", "rtx-3090", "--dockerfile"),
        "doctor --compose": ("doctor", "--gpu", "rtx-3090", "--dockerfile", "Dockerfile", "--compose"),
        "verify --json": ("data", "verify", "../good/data", "--json"),
        "package --json": ("package", "../good/bundle", "cpp", "--out", "o", "--json"),
    }
    for title, command in commands.items():
        for what, odd in oddities("x").items():
            if what in ("missing", "a dangling link"):
                continue
            yield Case("outputs", f"{title} to {what}", (*command, "x"), odd)
        yield Case("outputs", f"{title} below a file", (*command, "x/y.json"), write("x", b"own"))
        yield Case("outputs", f"{title} in /proc", (*command, "/proc/x.json"))
        if os.geteuid() == 0:
            yield Case(
                "outputs",
                f"{title} to a device",
                (*command, "x"),
                lambda folder: os.mknod(folder / "x", 0o20666, os.makedev(1, 3)),
            )
    folders: dict[str, tuple[str, ...]] = {
        "package": ("package", "../good/bundle", "cpp", "--out"),
        "synthesize": ("data", "synthesize", "--train", "1", "--test", "1", "--size", "256"),
        "train": ("train", "--data", "../good/data", "--recipe", "../good/recipe.toml", "--out"),
        "predict": (
            "predict",
            "../good/image.png",
            "--mpp",
            "0.25",
            "--bundle",
            "../good/bundle",
            "-e",
            ENGINE,
            "--out",
        ),
        "export": ("export", "../good/weights.safetensors", "--out"),
        "validate": (
            "validate",
            "../good/bundle",
            "--data",
            "../good/data",
            "--patch",
            "256",
            *REFERENCE,
            "-e",
            ENGINE,
            "--out",
        ),
    }
    for title, command in folders.items():
        for what, odd in oddities("x").items():
            if what in ("missing", "a dangling link", "a folder", "a link to a folder"):
                continue
            yield Case("outputs", f"{title} into {what}", (*command, "x"), odd)
        yield Case("outputs", f"{title} over a file", (*command, "x"), write("x", b"own"))
        yield Case("outputs", f"{title} below a file", (*command, "x/y"), write("x", b"own"))
        yield Case("outputs", f"{title} in /proc", (*command, "/proc/x"))
        if title not in ("predict", "train", "validate"):  # these add to a folder
            yield Case("outputs", f"{title} over the user's files", (*command, "x"), write("x/notes.txt", b"own"))
        yield Case("outputs", f"{title} over /", (*command, "/"))
