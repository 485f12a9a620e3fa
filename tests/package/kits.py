"""What the tests of build kits share: the fake trtexec, and the environment that build.sh runs in."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from msal_deploy.targets import find_target

FAKE = Path(__file__).with_name("fake_trtexec.py")
# Version -> a target that it supports, and a preferred precision of that target.
TARGETS = {
    "8.6.1": ("gtx-1080-ti", "int8"),
    "10.4.0": ("v100", "fp16"),
    "10.16.0": ("rtx-3090", "int8"),
    "11.1.0": ("t4", "fp16"),
}


class Done(NamedTuple):
    code: int
    out: str
    err: str


def put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def environment(tools: Path, world: dict[str, Any] | None, **variables: str) -> dict[str, str]:
    return {"PATH": f"{tools}:/usr/bin:/bin", "FAKE_TRTEXEC": json.dumps(world or {}), **variables}


def world(version: str) -> dict[str, str]:
    target = find_target(TARGETS[version][0])
    return {"version": version, "sm": target.sm, "gpu": target.gpu}
