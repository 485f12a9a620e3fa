"""Options of the integrations."""

from pathlib import Path
from typing import Any

import pytest

from msal_deploy.errors import BadInput
from msal_deploy.package import INTEGRATIONS, choose_options


@pytest.mark.parametrize(
    ("integration", "options", "message"),
    [
        ("cpp", {"backend": "openvino"}, "--backend does not apply to cpp; leave it out"),
        ("bioimageio", {"gpu": "t4"}, "--gpu does not apply to bioimageio; leave it out"),
        ("build-kit", {"authors": ["Ada"]}, "--author does not apply to build-kit; leave it out"),
        ("cpp", {"gpu": ""}, "'' is not a known GPU"),
        ("onnx", {"io": "float32-nhwc"}, "'float32-nhwc' is not an input; did you mean 'float32-nchw'"),
        ("onnx", {"torch_python": Path("python")}, "--torch-python does not apply to onnx; leave it out"),
        *((name, {"io": "float32-nchw"}, f"--io does not apply to {name}") for name in INTEGRATIONS if name != "onnx"),
    ],
)
def test_an_option_is_never_ignored(integration: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        choose_options(integration, **options)
