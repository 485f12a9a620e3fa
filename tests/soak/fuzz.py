"""Fuzz the parsers of msal-deploy's own formats with atheris: only `BadInput` may come out.

``make fuzz`` runs it in an environment of its own. Each parser gets the files of the project as seeds. A finding is the
traceback's last line in the project, with the input that caused it; the fuzzer goes on after one.

    python tests/soak/fuzz.py --minutes 12 --json fuzz.json
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msal_deploy.trt.plan_metadata import PlanMetadata

ROOT = Path(__file__).parents[2]
PARSERS = ("xml", "manifest", "plan", "recipe", "target")
TOKENS = {
    "xml": [
        *(
            "<Annotations ",
            "<Annotation ",
            "<Regions>",
            "<Region ",
            "<Vertices>",
            "<Vertex ",
            'X="1"',
            'Y="2"',
            'Z="0"',
        ),
        *('MicronsPerPixel="0.25"', 'Id="1"', 'NegativeROA="1"', 'Type="3"', "/>", "</Region>", "nan", "inf", "1e999"),
        *("<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "<?xml version='1.0' encoding='utf-16'?>", "<![CDATA[", "\ufeff"),
    ],
    "manifest": [
        '"artifacts"',
        '"sha256"',
        '"made_from"',
        '"spec"',
        '"axes"',
        "null",
        "1e999",
        "-1",
        "[[",
        "{}",
        '"\\ud800"',
    ],
    "plan": ['"profile"', '"min"', '"opt"', '"max"', '"sm"', "null", "1e999", "-1", "[[", "{}", '"\\ud800"'],
    "recipe": ["[train]", "[network]", "[export]", "patch = 64", "= nan", "= inf", "= -1", "= [", "'''", "1979-05-27"],
    "target": ["like = 'l4'", "sm = '8.6'", "[cuda]", "= nan", "= inf", "= -1", "= [", "'''", "1979-05-27"],
}


def seeds(parser: str) -> list[bytes]:
    """Return valid files of a parser's format."""
    sys.path.insert(0, str(ROOT / "tests"))
    import msgspec

    if parser == "xml":
        import numpy as np

        from msal_deploy.data import write_xml

        with tempfile.TemporaryDirectory() as folder:
            squares = [np.array([[0, 0], [9, 0], [9, 9], [0, 9]]) + 20 * index for index in range(3)]
            write_xml(Path(folder) / "a.xml", squares, microns_per_pixel=0.25)
            return [(Path(folder) / "a.xml").read_bytes()]
    if parser == "manifest":
        from tiny_bundle import write_tiny_bundle

        with tempfile.TemporaryDirectory() as folder:
            return [(write_tiny_bundle(Path(folder) / "bundle").path / "manifest.json").read_bytes()]
    if parser == "plan":
        return [msgspec.json.encode(plan_metadata())]
    if parser == "recipe":
        return [RECIPE]
    return [path.read_bytes() for path in sorted((ROOT / "msal_deploy/targets").glob("*.toml"))]


def plan_metadata() -> "PlanMetadata":
    """Return the metadata of some plan."""
    from msal_deploy.trt.plan_metadata import DEFAULT_PROFILE, ActualPrecision, BuildOptions, PlanMetadata, Share

    return PlanMetadata(
        backend="tensorrt-rtx",
        backend_version="1.7.0",
        gpu="rtx-3090",
        sm=("8.6",),
        graph="model.fp32.onnx",
        graph_sha256="0" * 64,
        requested="fp32",
        actual=ActualPrecision("inspector", {"fp32": Share(3, 1.0, 1.0)}, 2),
        profile=DEFAULT_PROFILE,
        plan_sha256="1" * 64,
        bytes=1234,
        options=BuildOptions(workspace_mib=512),
        built="2026-11-27T00:00:00Z",
    )


RECIPE = b"""name = "mine"
[network]
model = "unet"
backbone = "resnet34"
weights = "random"
[train]
epochs = 3
patch = 256
zoom = [0.8, 1.2]
[export]
opset = 17
tolerance = 1e-4
"""


def reader(parser: str, folder: Path) -> Callable[[bytes], object]:
    """Return a function that parses bytes through a file, as the commands do."""
    from msal_deploy.bundle import Bundle
    from msal_deploy.data import read_xml
    from msal_deploy.recipe import Recipe
    from msal_deploy.targets import find_target
    from msal_deploy.trt.plan_metadata import read_metadata

    name, read = {
        "xml": ("a.xml", read_xml),
        "manifest": ("manifest.json", lambda path: Bundle(path.parent)),
        "plan": ("a.plan.json", lambda path: read_metadata(path.with_name("a.plan"))),
        "recipe": ("a.toml", Recipe.load),
        "target": ("a.toml", find_target),
    }[parser]
    path = folder / name

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return parse


def fuzz(parser: str, work: Path, minutes: float) -> None:
    """Fuzz one parser in this process; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["msal_deploy", "xml", "tomllib", "defusedxml"]):
        parse = reader(parser, Path(tempfile.mkdtemp(dir=work)))
    from msal_deploy.errors import BadInput

    def one(data: bytes) -> None:
        try:
            parse(data)
        except BadInput as error:
            if "\n" in str(error):
                keep(data, "BadInput of several lines", work)
        except Exception as error:
            place = [frame for frame in traceback.extract_tb(error.__traceback__) if "msal_deploy" in frame.filename][
                -1
            ]
            keep(data, f"{type(error).__name__} at {Path(place.filename).name}, {place.name}", work)

    corpus = work / "corpus"
    atheris.Setup(
        [
            *("fuzz", str(corpus), f"-max_total_time={int(60 * minutes)}", "-timeout=20", "-rss_limit_mb=2000"),
            *("-max_len=20000", "-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={work}/slow-"),
            f"-dict={work / 'words'}",
        ],
        one,
    )
    atheris.Fuzz()


def keep(data: bytes, title: str, work: Path) -> None:
    """Keep the shortest input of each finding."""
    path = work / f"finding-{hashlib.sha256(title.encode()).hexdigest()[:12]}"
    if not path.exists() or len(data) < path.stat().st_size:
        path.write_bytes(data)
        path.with_suffix(".title").write_text(title)


def run(parser: str, minutes: float, folder: Path) -> dict[str, object]:
    """Fuzz one parser in a process of its own and return what came of it."""
    work = folder / parser
    (work / "corpus").mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(seeds(parser)):
        (work / "corpus" / f"seed-{index}").write_bytes(seed)
    escaped = ["".join(f"\\x{byte:02x}" for byte in token.encode("utf-8", "surrogatepass")) for token in TOKENS[parser]]
    (work / "words").write_text("\n".join(f'"{token}"' for token in escaped))
    command = [sys.executable, __file__, "--one", parser, "--work", str(work), "--minutes", str(minutes)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (work / "log").write_text(done.stdout + done.stderr)
    found = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    titles = sorted(path.read_text() for path in work.glob("finding-*.title"))
    slow = len(list(work.glob("slow-*")))
    executions = int(found[-1]) if found else 0
    return {"parser": parser, "minutes": minutes, "executions": executions, "findings": titles, "timeouts": slow}


def main() -> int:
    """Fuzz every parser, one after the other."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=12, help="For each parser.")
    options.add_argument("--parser", choices=PARSERS, action="append")
    options.add_argument("--json", type=Path)
    options.add_argument("--work", type=Path, default=None, help="Where the corpora and findings stay.")
    options.add_argument("--one", choices=PARSERS, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT))
    if chosen.one:
        fuzz(chosen.one, chosen.work, chosen.minutes)
    folder = chosen.work or Path(tempfile.mkdtemp(prefix="fuzz-"))
    results = []
    for parser in chosen.parser or PARSERS:
        results.append(run(parser, chosen.minutes, folder))
        print(results[-1], flush=True)
        if chosen.json:
            chosen.json.write_text(
                json.dumps(
                    {"format_version": 1, "command": f"make fuzz MINUTES={chosen.minutes:g}", "parsers": results},
                    indent=2,
                )
                + os.linesep
            )
    return int(any(one["findings"] or one["timeouts"] or not one["executions"] for one in results))


if __name__ == "__main__":
    sys.exit(main())
