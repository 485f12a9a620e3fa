"""Record the names of TensorRT's Python bindings, for the fake that stands in for them (``tests/fake_tensorrt.py``).

    python tests/bindings/record.py                                        # what is committed
    python tests/bindings/record.py tensorrt-cu12-bindings==10.13.3.9      # one more

A wheel of the bindings alone cannot be imported: it needs libnvinfer, which is not on PyPI. It takes some ten functions
from there, so this builds empty libraries with those names (gcc) and imports the real extension module over them.
Nothing can be computed so; but every class, method, argument, enum member and its number are the binding's own.
TensorRT-RTX is installed whole and imported as it is. Run it with a Python that all wheels are for: 3.11.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WHEELS = (
    "tensorrt-bindings==8.6.1",
    "tensorrt-cu12-bindings==10.0.1",
    "tensorrt-cu12-bindings==10.16.1.11",
    "tensorrt-cu12-bindings==11.0.0.114",
    "tensorrt-cu12-bindings==11.4.0.106",
    "tensorrt-rtx==1.7.1.116",
)
LEFT_OUT = re.compile(r"IPlugin|Plugin|Caffe|Uff|IAlgorithm|IInt8|Calibrat|ISym|IDims|^Dims|Permutation")


def main() -> None:
    for wheel in sys.argv[1:] or WHEELS:
        package, _, version = wheel.partition("==")
        print(wheel, "->", record_installed(version) if package == "tensorrt-rtx" else record_wheel(wheel, version))


def record_installed(version: str) -> Path:
    return run(HERE / f"tensorrt_rtx-{version}.json", "tensorrt_rtx", {})


def record_wheel(wheel: str, version: str) -> Path:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            name,
            wheel,
        ]
        subprocess.run(command, check=True)
        zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
        make_empty_libraries(folder / "tensorrt_bindings" / "tensorrt.so", folder)
        paths = {"LD_LIBRARY_PATH": name, "PYTHONPATH": name}
        return run(HERE / f"tensorrt-{version}.json", "tensorrt_bindings", paths)


def make_empty_libraries(extension: Path, folder: Path) -> None:
    """Write the nv libraries that `extension` needs: its missing functions, empty, in the first of them."""
    needed = subprocess.run(["readelf", "-d", extension], capture_output=True, text=True, check=True).stdout
    missing = subprocess.run(["nm", "-D", "-u", extension], capture_output=True, text=True, check=True).stdout
    functions = re.findall(r"U ((?:createInfer|createNv|get|initLib|_ZN\d+nv)\w+)$", missing, re.MULTILINE)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
    for library in re.findall(r"\[(libnv[^\]]+)\]", needed):
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source], check=True
        )
        source.write_text("")


def run(path: Path, module: str, environment: dict[str, str]) -> Path:
    """Write the names of `module`, imported by a process of its own."""
    command = [sys.executable, __file__, "--names-of", module, str(path)]
    subprocess.run(command, check=True, env=os.environ | environment)
    return path


def names_of(module_name: str) -> dict[str, Any]:
    module = __import__(module_name)
    names = {
        name: found for name, found in vars(module).items() if not name.startswith("_") and not LEFT_OUT.search(name)
    }
    classes = {name: found for name, found in names.items() if isinstance(found, type)}
    return {
        "module": "tensorrt_rtx" if "rtx" in module_name else "tensorrt",
        "version": module.__version__,
        "functions": sorted(name for name, found in names.items() if callable(found) and name not in classes),
        "enums": {name: members(found) for name, found in sorted(classes.items()) if is_enum(found)},
        "classes": {name: attributes(found, classes) for name, found in sorted(classes.items()) if not is_enum(found)},
    }


def is_enum(found: type) -> bool:
    return hasattr(found, "__members__")


def members(enum: Any) -> dict[str, int]:
    return {name: int(value) for name, value in enum.__members__.items()}


def attributes(found: type, classes: dict[str, type]) -> dict[str, Any]:
    """Return the class's own names: bases, enums in it, methods with the arguments of each overload, and properties."""
    bases = [name for name, other in classes.items() if other in found.__bases__]
    own = {name: value for name, value in vars(found).items() if not name.startswith("_") or name == "__init__"}
    enums = {name: members(value) for name, value in own.items() if isinstance(value, type) and is_enum(value)}
    methods = {name: value for name, value in sorted(own.items()) if callable(value) and name not in enums}
    return {
        "bases": bases,
        "enums": enums,
        "methods": {name: overloads(name, value) for name, value in methods.items()},
        "read": sorted(name for name, value in own.items() if isinstance(value, property) and value.fset is None),
        "write": sorted(name for name, value in own.items() if isinstance(value, property) and value.fset),
    }


def overloads(name: str, method: Any) -> list[str]:
    """Return the arguments without self of every overload, from the signatures in pybind11's docstring.

    An argument that may be left out ends with ``=``.
    """
    lines = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", method.__doc__ or "", re.MULTILINE)
    return [", ".join(filter(None, map(argument, split(line)))) for line in lines]


def split(line: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth = [""], 0
    for character in line:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def argument(text: str) -> str:
    name = re.match(r"\**\w+", text)
    if name is None or name[0] == "self":
        return ""
    return name[0] + ("=" if " = " in text else "")


def dump(path: Path, names: dict[str, Any]) -> None:
    """Write one line a class, so that two versions can be compared with diff."""
    lines = [f'"{key}": {json.dumps(names[key])},' for key in ("module", "version", "functions")]
    for key in ("enums", "classes"):
        rows = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in names[key].items()]
        lines += [f'"{key}": {{', ",\n".join(rows), "}" + ("," if key == "enums" else "")]
    path.write_text("{\n" + "\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--names-of"]:
        dump(Path(sys.argv[3]), names_of(sys.argv[2]))
    else:
        main()
