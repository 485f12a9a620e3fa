"""A fake TensorRT: a module with exactly the names of the real bindings of one version.

    trt = fake_tensorrt("8.6.1")                      # or "10.0.1", "10.16.1.11", "11.0.0.114", "11.4.0.106", "rtx"
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    trt.world.sm = "6.1"                              # the local GPU, and simulated failures: see `World`

Names, arguments and enum values come from ``bindings/*.json``, recorded from NVIDIA's own wheels. A name that the
version lacks raises AttributeError, wrong arguments raise TypeError, and a recorded name without behaviour in
``fake_tensorrt_parts.py`` raises NotImplementedError. The fake reads the ONNX file, saves the builder's settings in the
"plan", and answers the inspector in the format of its version. It does not run the network.
"""

import enum
import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt_parts as parts
from fake_tensorrt_parts import World

RECORDS = Path(__file__).parent / "bindings"
VERSIONS = ("8.6.1", "10.0.1", "10.16.1.11", "11.0.0.114", "11.4.0.106", "rtx")


class BindingEnum(enum.Enum):
    """An enum as pybind11 makes it: not an integer, but convertible to one."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


class Strict:
    """An object with the recorded names only; a Python class derived from it may have more."""

    _names: frozenset[str] = frozenset()
    _writable: frozenset[str] = frozenset()
    _version = ""

    def __getattribute__(self, name: str) -> Any:
        kind = object.__getattribute__(self, "__class__")
        if name.startswith("_") or not kind._is_own or name in kind._names:
            return object.__getattribute__(self, name)
        raise AttributeError(f"{kind.__name__} of TensorRT {kind._version} has no {name}")

    def __getattr__(self, name: str) -> Any:
        if name in self._writable:
            return None
        if name in self._names:
            raise NotImplementedError(f"the fake does not implement {type(self).__name__}.{name}")
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self)._is_own and not name.startswith("_") and name not in self._writable:
            raise AttributeError(f"{type(self).__name__} of TensorRT {self._version} has no {name} that can be set")
        object.__setattr__(self, name, value)

    def __init_subclass__(cls, **arguments: Any) -> None:
        cls._is_own = "_names" in vars(cls)


def fake_tensorrt(version: str, **world: Any) -> ModuleType:
    """Return a new module; `world` sets attributes of its `World`."""
    names = recorded(version)
    module = ModuleType(names["module"])
    module.__version__ = names["version"]
    module.world = World(**world)
    for name, members in names["enums"].items():
        setattr(module, name, BindingEnum(name, members))
    classes: dict[str, type] = {}
    for name in sorted(names["classes"], key=lambda name: bool(names["classes"][name]["bases"])):
        classes[name] = make_class(module, name, names["classes"][name], classes)
        setattr(module, name, classes[name])
    return module


@cache
def recorded(version: str) -> dict[str, Any]:
    """Return the record of a version."""
    pattern = "tensorrt_rtx-*.json" if version == "rtx" else f"tensorrt-{version}.json"
    record: dict[str, Any] = json.loads(next(RECORDS.glob(pattern)).read_text(encoding="utf-8"))
    return record


def make_class(module: ModuleType, name: str, record: dict[str, Any], classes: dict[str, type]) -> type:
    behaviour = vars(parts.BEHAVIOUR[name]) if name in parts.BEHAVIOUR else {}
    bases = tuple(classes[base] for base in record["bases"] if base in classes) or parts.BUILT_IN.get(name, (Strict,))
    namespace = {key: value for key, value in behaviour.items() if key.startswith("_") and not key.startswith("__")}
    for method, overloads in record["methods"].items():
        if method == "__init__" and name in parts.BUILT_IN:
            continue
        function = behaviour.get(method) or (_nothing if method == "__init__" else _missing(name, method))
        namespace[method] = checked(f"{name}.{method}", function, overloads)
    for attribute in (*record["read"], *record["write"]):
        if attribute in behaviour:
            namespace[attribute] = behaviour[attribute]
    for enumeration, members in record["enums"].items():
        namespace[enumeration] = made = BindingEnum(enumeration, members)
        namespace |= dict(made.__members__)  # pybind11 exports them into the class
    inherited = {key for base in bases for key in getattr(base, "_names", ())}
    writable = {key for base in bases for key in getattr(base, "_writable", ())} | set(record["write"])
    namespace["_names"] = frozenset({*record["methods"], *record["read"], *writable, *namespace, *inherited})
    namespace |= {"_writable": frozenset(writable), "_version": module.__version__, "_module": module}
    return type(name, bases, namespace)


def checked(name: str, function: Callable[..., Any], overloads: list[str]) -> Callable[..., Any]:
    """Let `function` be called only with the arguments of one of the recorded overloads."""

    @wraps(function)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if overloads and not any(takes(overload, arguments, named) for overload in overloads):
            raise TypeError(f"{name}(): incompatible function arguments; it takes ({') or ('.join(overloads)})")
        return function(self, *arguments, **named)

    return call


def takes(overload: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    names = [name for name in overload.split(", ") if name]
    needed = {name for name in names[len(arguments) :] if not name.endswith("=")}
    known = {name.removesuffix("=") for name in names[len(arguments) :]}
    return len(arguments) <= len(names) and named.keys() <= known and needed <= named.keys()


def _nothing(self: Any) -> None: ...


def _missing(name: str, method: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError(f"the fake does not implement {name}.{method}")

    return call
