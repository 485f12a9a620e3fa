"""Texts of strangers in every field of every input, in every package: refused in one sentence, or written verbatim.

Scripts are run and configurations parsed. Nothing in a text is ever executed: the file `PWNED` never appears.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import yaml
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tiny_bundle import tiny_graph
from tritonclient.grpc import model_config_pb2

from msal_deploy.bundle import MANIFEST, Bundle
from msal_deploy.doctor.pins import compose_file, dockerfile, requirements
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.package import choose_options, write_package
from msal_deploy.package.quoting import environment
from msal_deploy.recipe import Recipe
from msal_deploy.report import write_report
from msal_deploy.targets import find_target
from msal_deploy.trt.plan_metadata import read_metadata

FAKE = Path(__file__).with_name("fake_trtexec.py")
HOSTILE = (
    "x$(touch PWNED)", "x`touch PWNED`", "x; touch PWNED", "x\ntouch PWNED", "x'; touch PWNED; '", 'x"; touch PWNED; "',
    "{{7*7}}", "{% raw %}", "</script><script>touch()</script>", "../../etc/passwd", "/etc/passwd", "x\0y",
    "\u202egnp.exe", "-rf", "x: y # z", "[a](javascript:b)", "&amp;", "", " ", "x|touch PWNED", "$HOME",
    "x" * 5000,
    "${IFS}", "\\", "\r\n", "*alias", "!!python/object:x", "@x", "%x", "\u2028", "é\ud800",
)  # fmt: skip
texts = st.sampled_from(HOSTILE) | st.text(max_size=30)
fast = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def fields(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all strings in a JSON document; a key is a path that ends in None."""
    if isinstance(value, dict):
        inner = [one for key, item in value.items() for one in fields(item, (*path, key))]
        return [*inner, *((*path, key, None) for key in value)]
    if isinstance(value, list):
        return [one for index, item in enumerate(value) for one in fields(item, (*path, index))]
    return [path] if isinstance(value, str) else []


def put(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """Return a copy of a document with `text` at a path."""
    copy = json.loads(json.dumps(value))
    inner = copy
    *way, last = path[:-1] if path[-1] is None else path
    for key in way:
        inner = inner[key]
    if path[-1] is None:
        inner[text] = inner.pop(last)
    else:
        inner[last] = text
    return copy


def sentence(error: BadInput) -> None:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text and len(text) < 1500


@pytest.fixture(scope="module")
def small(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a small graph, whose golden tiles are those of the bundle."""
    folder = tmp_path_factory.mktemp("hostile") / "a bundle"
    shutil.copytree(bundle.path, folder)
    onnx.save(tiny_graph("fp32"), folder / "model.fp32.onnx")
    sign(folder, lambda manifest: manifest)
    return folder


def sign(folder: Path, change: Any) -> None:
    """Write a changed manifest with the right hash of the graph, as a stranger would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["artifacts"]["model.fp32.onnx"]["sha256"] = sha256(folder / "model.fp32.onnx")
    (folder / MANIFEST).write_text(json.dumps(change(manifest)))


def parse_everything(folder: Path) -> None:
    """Run the scripts of a package with a stand-in for trtexec, and parse its configurations."""
    for file in folder.rglob("*"):
        if file.suffix == ".yaml":
            assert all(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        if file.suffix == ".pbtxt":
            text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        if file.name == "Dockerfile":
            kept = [line.split()[0] for line in file.read_text().splitlines() if line and not line.startswith("#")]
            assert set(kept) <= {"FROM", "RUN", "COPY", "WORKDIR", "ENTRYPOINT"}
    if (folder / "build.sh").exists():
        assert subprocess.run(["sh", "-n", folder / "build.sh"], check=False).returncode == 0
        program = folder / "trtexec"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        program.chmod(0o755)
        environment = {**os.environ, "TRTEXEC": str(program), "FAKE_TRTEXEC": "{}"}
        subprocess.run(
            ["sh", folder / "build.sh", "fp32"], env=environment, capture_output=True, check=False, cwd=folder
        )
    assert not list(folder.parent.rglob("PWNED")) and not Path("PWNED").exists()


MANIFEST_FIELDS = [
    ("spec", "image", "name"), ("spec", "image", "dtype"), ("spec", "image", "axes", 0, "name"),
    ("spec", "probability", "name"), ("recipe", "name"), ("recipe", "network", "model"), ("licence",),
    ("recipe", "network", "weights"), ("recipe", "network", "backbone"), ("versions", "torch"),
    ("versions", "torch", None),
    ("artifacts", "model.fp32.onnx", "sha256"), ("artifacts", "model.fp32.onnx", "made_from", 0),
    ("artifacts", "golden/image.npy", None), ("recipe", "train", "precision"),
]  # fmt: skip


@pytest.mark.parametrize("field", MANIFEST_FIELDS, ids=str)
@fast
@given(text=texts)
def test_a_manifest_opens_only_with_names_and_single_lines(
    small: Path, tmp_path_factory: Any, field: Any, text: str
) -> None:
    folder = tmp_path_factory.mktemp("m")
    (folder / MANIFEST).write_text(json.dumps(put(json.loads((small / MANIFEST).read_text()), field, text)))
    try:
        opened = Bundle(folder)
    except BadInput as error:
        sentence(error)
        return
    finally:
        shutil.rmtree(folder)
    written = msgspec.json.encode(opened.manifest).decode()
    assert json.dumps(text, ensure_ascii=False) in json.dumps(json.loads(written), ensure_ascii=False)


LINES = [text for text in HOSTILE if text.isprintable()]
TEXTS = [" ".join(LINES[start : start + 8])[:200] for start in range(0, len(LINES), 8)]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_packages_execute_nothing(small: Path, tmp_path: Path, text: str, monkeypatch: Any) -> None:
    """The texts that a manifest may hold are written everywhere and read again."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(small, tmp_path / "bundle"))
    sign(folder, lambda manifest: put(put(manifest, ("licence",), text), ("recipe", "name"), text))
    for integration in ("cpp", "triton", "build-kit"):
        out = tmp_path / "out of it" / integration
        write_package(folder, integration, out, choose_options(integration, "fp32", gpu_of(integration)))
        parse_everything(out)
        if integration == "triton":
            config = text_format.Parse(next(out.rglob("config.pbtxt")).read_text(), model_config_pb2.ModelConfig())
            assert json.loads(config.parameters["version_1"].string_value)["licence"] == text
        readme = (out / "README.md").read_text(encoding="utf-8")
        assert re.sub(r"\\(.)", r"\1", readme).count(" ".join(text.split())) == 1
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", ["image$(touch PWNED)", "image`touch PWNED`", "a'; touch PWNED; '", "a\ntouch PWNED"])
def test_scripts_quote_names_even_if_they_were_not_read(
    small: Path, tmp_path: Path, name: str, monkeypatch: Any
) -> None:
    """The second line of defence: a spec that a program made, so that no reader has refused its names."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(small, tmp_path / "bundle"))
    onnx.save(tiny_graph("fp32", image=name), folder / "model.fp32.onnx")
    sign(folder, lambda manifest: manifest)
    with pytest.raises(BadInput, match=r"regex|one line"):
        sign(folder, lambda manifest: put(manifest, ("spec", "image", "name"), name))
        Bundle(folder)
    sign(folder, lambda manifest: put(manifest, ("spec", "image", "name"), "image"))
    opened = Bundle(folder)
    spec = replace(opened.spec, image=replace(opened.spec.image, name=name))
    opened.manifest = replace(opened.manifest, spec=spec)
    write_package(opened, "build-kit", tmp_path / "kit", choose_options("build-kit", "fp32", "rtx-3090"))
    parse_everything(tmp_path / "kit")
    assert not list(tmp_path.rglob("PWNED"))


def gpu_of(integration: str) -> str | None:
    return "rtx-3090" if integration == "build-kit" else None


TARGET = """
name = "own"
like = "rtx-3090"
gpu = "NVIDIA A10"
architecture = "Ampere"
torch = "2.15.0"
onnxruntime = "1.31.1"
why_last = "it is the last"
sm = "8.6"
pins = ["tensorrt==1.0"]
"""


@pytest.mark.parametrize(
    "old", ["own", "NVIDIA A10", "Ampere", "2.15.0", "1.31.1", "it is the last", "8.6", "tensorrt==1.0"]
)
@fast
@given(text=texts)
def test_files_for_a_target_of_a_stranger_hold_no_other_line(tmp_path_factory: Any, old: str, text: str) -> None:
    folder = tmp_path_factory.mktemp("t")
    path = folder / "own.toml"
    path.write_bytes(
        TARGET.replace(json.dumps(old), json.dumps(text, ensure_ascii=False)).encode(errors="surrogatepass")
    )
    try:
        target = find_target(path)
    except BadInput as error:
        sentence(error)
        return
    finally:
        shutil.rmtree(folder)
    plain = find_target("rtx-3090")
    for write in (requirements, dockerfile):
        lines, usual = (write(one).splitlines() for one in (target, plain))
        commands, expected = ([line for line in part if line[:1] not in ("#", "")] for part in (lines, usual))
        assert len(commands) <= len(expected) and not any("touch" in line for line in commands)
    assert yaml.safe_load(compose_file(target))["services"]["msal-deploy"]["image"] == f"msal-deploy:{target.name}"
    assert yaml.safe_load(environment().from_string("a: {{ x | yaml }}").render(x=target.gpu))["a"] == " ".join(
        target.gpu.split()
    )


@fast
@given(text=texts)
def test_a_recipe_is_read_with_its_name_or_refused(text: str) -> None:
    try:
        assert Recipe.from_json(json.dumps({"name": text})).name == text
    except BadInput as error:
        sentence(error)


@fast
@given(text=texts)
def test_authors_arrive_verbatim(text: str) -> None:
    try:
        options = choose_options("bioimageio", authors=[text])
    except BadInput as error:
        sentence(error)
    else:
        assert yaml.safe_load(msgspec.yaml.encode({"authors": list(options.authors)}))["authors"] == [text]


PLAN = {
    "backend": "tensorrt", "backend_version": "10.0.0", "gpu": "l4", "sm": ["8.9"], "graph": "model.fp32.onnx",
    "graph_sha256": "0" * 64, "requested": "fp32", "realised": {"read_from": "inspector", "shares": {}},
    "profile": {"minimum": [1, 32, 32], "optimum": [1, 32, 32], "maximum": [1, 32, 32]}, "plan_sha256": "0" * 64,
    "bytes": 1, "options": {}, "built": "now", "format_version": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", fields(PLAN), ids=str)
@fast
@given(text=texts)
def test_metadata_of_a_plan_is_read_or_refused(tmp_path_factory: Any, field: Any, text: str) -> None:
    folder = tmp_path_factory.mktemp("p")
    (folder / "a.plan.json").write_text(json.dumps(put(PLAN, field, text)))
    try:
        read_metadata(folder / "a.plan")
    except BadInput as error:
        sentence(error)
    finally:
        shutil.rmtree(folder)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=texts.filter(lambda text: "\ud800" not in text and text.isprintable()))
def test_the_report_escapes_every_text(small: Path, tmp_path_factory: Any, text: str) -> None:
    folder = tmp_path_factory.mktemp("r")
    manifest = put(put(json.loads((small / MANIFEST).read_text()), ("licence",), text), ("recipe", "name"), text)
    write_report(folder / "r.html", title=text, manifest=manifest, data=text, command=text, notes=[text])
    page = (folder / "r.html").read_text(encoding="utf-8")
    shutil.rmtree(folder)
    assert "<script" not in page and "{{7*7}}" in page if text == "{{7*7}}" else "<script" not in page


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_quoted_texts_arrive_verbatim_in_a_shell(tmp_path: Path, text: str) -> None:
    if "\0" in text:
        return  # no word of a shell can hold it
    script = environment().from_string("printf %s {{ x | shell }}").render(x=text)
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == text and not list(tmp_path.iterdir())
