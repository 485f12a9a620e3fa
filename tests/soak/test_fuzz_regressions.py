"""Inputs that the fuzzer found: each once ended in another error than `BadInput`, or in one of several lines."""

from pathlib import Path

import pytest

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.trt.plan_metadata import read_metadata

FOUND = {
    "a name that is not UTF-8": b'{"\xf7":',
    "another": b'{"\xff":',
    "an unknown field of two lines": b'{"backend":"tensorrt-rtx","back\\nd_version":"0.7.0"}',
    "cut": b'{\n  "spec": {\n    "image": {\n      "name": "image",\n',
}


@pytest.mark.parametrize("content", FOUND.values(), ids=FOUND)
def test_what_the_fuzzer_found_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    (tmp_path / "a.plan.json").write_bytes(content)
    with pytest.raises(BadInput) as manifest:
        Bundle(tmp_path)
    with pytest.raises(BadInput) as plan:
        read_metadata(tmp_path / "a.plan")
    for error in (manifest, plan):
        assert "\n" not in str(error.value)
