"""Every package verb works with only the extra that its page names, and says which one is missing.

`.ci/extras` does the same in real environments; here, what such an environment would lack is hidden (`only_extra.py`).
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from only_extra import hidden, required

ROOT = Path(__file__).parents[2]


def run(extra: str, *commands: str) -> tuple[list[int], str]:
    words = " ; ".join(commands).split(" ")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("only_extra.py"), extra, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    return [int(code) for code in re.findall(r"^exit code (\d+)$", done.stdout, re.MULTILINE)], output


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("packages")


def test_base_install_packages_for_cpp_the_build_kit_and_onnx(bundle, out):
    """And it names the extra for the others."""
    verb = f"package {bundle.path}"
    codes, output = run(
        "",
        f"{verb} cpp --out {out}/cpp",
        f"{verb} build-kit --gpu gtx-1080-ti --out {out}/kit",
        f"{verb} onnx --io float32-nchw --out {out}/onnx",
        f"{verb} bioimageio --out {out}/none",
        f"{verb} triton --out {out}/none",
    )
    assert codes == [0, 0, 0, 3, 3], output
    assert "torch is not installed; run: pip install 'msal-deploy[train]'" in output
    assert re.search(r"not installed; run: pip install 'msal-deploy\[triton\]'", output)
    assert not (out / "none").exists()


@pytest.mark.parametrize(
    ("integration", "extra", "page"),
    [
        ("bioimageio", "train", "engines/bioimageio/README.md"),
        ("triton", "triton", "engines/triton/README.md"),
    ],
)
def test_page_names_the_extra_that_the_verb_needs(bundle, out, integration, extra, page):
    assert f"msal-deploy[{extra}]" in (ROOT / page).read_text()
    codes, output = run(extra, f"package {bundle.path} {integration} --out {out / integration}")
    assert codes == [0], output


def test_pycuda_program_needs_what_the_extra_installs():
    """It is not packaged by a verb: it is copied, and runs where the extra `pascal` is installed."""
    tree = ast.parse((ROOT / "engines" / "pycuda" / "segment.py").read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    others = imported - sys.stdlib_module_names
    assert others == {"numpy", "PIL", "pycuda", "tensorrt"}
    distributions = {"PIL": "pillow"}
    assert {distributions.get(name, name) for name in others} <= required("pascal")


def test_hiding_hides_what_the_extra_does_not_install():
    assert {"torch", "yaml", "tritonclient"} & hidden("") == {"torch", "tritonclient"}
    assert "torch" not in hidden("train")
    assert "google" not in hidden("triton")  # protobuf, which tritonclient requires
    code = "from only_extra import hide\nhide({'yaml'})\ntry: import yaml\nexcept ModuleNotFoundError: print('hidden')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "hidden\n"
