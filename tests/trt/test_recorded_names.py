"""The fake TensorRT, the stub for mypy and the records match the real bindings."""

import ast
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import fake_tensorrt_parts as parts
import pytest
from fake_tensorrt import VERSIONS, fake_tensorrt, recorded, takes

ROOT = Path(__file__).parents[2]
STUB = ROOT / "typings" / "tensorrt.pyi"
RECORDS = [recorded(version) for version in VERSIONS]


def in_some_version(owner: str, name: str) -> bool:
    return any(name in names_of(record["classes"].get(owner, {})) for record in RECORDS)


def names_of(record: dict[str, Any]) -> set[str]:
    members = {member for enumeration in record.get("enums", {}).values() for member in enumeration}
    return {
        *record.get("methods", {}),
        *record.get("read", []),
        *record.get("write", []),
        *record.get("enums", {}),
        *members,
    }


def test_record_matches_the_installed_tensorrt_rtx(tmp_path):
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    (file,) = (ROOT / "tests" / "bindings").glob("tensorrt_rtx-*.json")
    command = [
        sys.executable,
        ROOT / "tests" / "bindings" / "record.py",
        "--names-of",
        "tensorrt_rtx",
        tmp_path / "new.json",
    ]
    subprocess.run(command, check=True)
    new, old = (json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "new.json", file))
    if new["version"] != old["version"]:
        pytest.skip(f"recorded version {old['version']}, installed version {new['version']}")
    assert new == old


def test_fake_has_only_recorded_names():
    for owner, behaviour in parts.BEHAVIOUR.items():
        for name in vars(behaviour):
            assert name.startswith("_") or in_some_version(owner, name), f"{owner}.{name}"


@pytest.mark.parametrize("version", VERSIONS)
def test_methods_of_the_fake_have_the_recorded_arguments(version):
    """A method of the fake must not require an argument that the real one does not have."""
    for owner, behaviour in parts.BEHAVIOUR.items():
        methods = recorded(version)["classes"].get(owner, {}).get("methods", {})
        for name, overloads in methods.items():
            if overloads and inspect.isfunction(vars(behaviour).get(name)):
                needed = [p.name for p in parameters(vars(behaviour)[name]) if p.default is inspect.Parameter.empty]
                known = {argument.removesuffix("=") for overload in overloads for argument in overload.split(", ")}
                assert set(needed) <= known, f"{owner}.{name} {overloads}"


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


@pytest.mark.parametrize(
    ("version", "owner", "name"),
    [
        ("8.6.1", "BuilderFlag", "STRONGLY_TYPED"),
        ("8.6.1", "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("11.4.0.106", "BuilderFlag", "FP16"),
        ("11.4.0.106", "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        ("rtx", "BuilderFlag", "INT8"),
    ],
)
def test_fake_refuses_a_member_that_the_version_lacks(version, owner, name):
    with pytest.raises(AttributeError):
        getattr(getattr(fake_tensorrt(version), owner), name)


def test_fake_refuses_an_attribute_that_the_version_lacks():
    config = _config("8.6.1")
    assert config.max_workspace_size is None
    for name in ("progress_monitor", "num_compute_capabilities"):
        with pytest.raises(AttributeError):
            getattr(config, name)
        with pytest.raises(AttributeError):
            setattr(config, name, 1)
    with pytest.raises(AttributeError):
        _ = _config("11.4.0.106").max_workspace_size
    with pytest.raises(AttributeError):
        config.num_optimization_profiles = 1  # read-only


def test_fake_refuses_wrong_arguments():
    config = _config("10.16.1.11")
    for arguments in ((), (1, 2)):
        with pytest.raises(TypeError):
            config.set_flag(*arguments)
    with pytest.raises(TypeError):
        config.set_flag(flags=1)
    with pytest.raises(NotImplementedError):
        config.reset()


def _config(version: str) -> Any:
    trt = fake_tensorrt(version)
    return trt.Builder(trt.Logger()).create_builder_config()


def test_overloads_match_arguments():
    assert takes("name, profile_index=", ("x",), {})
    assert takes("name, profile_index=", (), {"name": "x", "profile_index": 1})
    assert not takes("name", (), {})
    assert not takes("name", ("x", 1), {})
    assert not takes("name", ("x",), {"name": "y"})


@cache
def stub() -> dict[str, ast.ClassDef]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "_Enum"}


@pytest.mark.parametrize("owner", stub())
def test_stub_has_only_recorded_names(owner):
    enums = {name for record in RECORDS for name in record["enums"].get(owner, {})}
    for node in stub()[owner].body:
        name = node.target.id if isinstance(node, ast.AnnAssign) else getattr(node, "name", "")
        assert name.startswith("__") or name in enums or in_some_version(owner, name), f"{owner}.{name}"


def test_stub_has_the_recorded_arguments():
    for owner, node in stub().items():
        for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
            given = tuple(argument.arg for argument in method.args.args[1:])
            for record in RECORDS:
                overloads = record["classes"].get(owner, {}).get("methods", {}).get(method.name)
                if overloads and given and (owner, method.name) not in OF_LATER_VERSIONS:
                    known = {argument.removesuffix("=") for overload in overloads for argument in overload.split(", ")}
                    assert set(given) <= known, f"{owner}.{method.name} of {record['version']}: {overloads}"


OF_LATER_VERSIONS = {("ICudaEngine", "create_execution_context")}  # runtime_config= exists in TensorRT-RTX only


def test_mypy_uses_the_stub(tmp_path):
    """Without the stub everything would be Any, and nothing would be checked."""
    program = tmp_path / "program.py"
    program.write_text(
        "import tensorrt as trt\n\n\ndef use(config: trt.IBuilderConfig) -> None:\n    config.set_flags(1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=_with_stub())
    assert '"IBuilderConfig" has no attribute "set_flags"' in result.stdout, result.stdout + result.stderr


def _with_stub() -> dict[str, str]:
    return os.environ | {"MYPYPATH": str(STUB.parent)}
