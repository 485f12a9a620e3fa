"""Record the names of the options that the GPU providers of onnxruntime-gpu know, from the strings in their libraries.

    pip download --no-deps onnxruntime-gpu==1.22.0
    python tests/record_onnxruntime_options.py onnxruntime_gpu-1.22.0-*.whl

The recorded names are in onnxruntime_options.json; those of the CUDA provider of 1.31.1 are also what a session on an
H200 returned from `get_provider_options`.
"""

import json
import re
import sys
import zipfile
from pathlib import Path

RECORD = Path(__file__).with_name("onnxruntime_options.json")
NAME = rb"(?:trt|cudnn_conv|use|prefer|enable|arena|gpu|do|fuse|device|has)_[a-z0-9_]+"
KNOWN = re.compile(rb"(?<![A-Za-z0-9_])" + NAME + rb"(?![A-Za-z0-9_])")


def options(wheel: zipfile.ZipFile, provider: str) -> list[str]:
    library = wheel.read(f"onnxruntime/capi/libonnxruntime_providers_{provider}.so")
    return sorted({name.decode() for name in KNOWN.findall(library)})


def main() -> None:
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for path in sys.argv[1:]:
        version = Path(path).name.split("-")[1]
        with zipfile.ZipFile(path) as wheel:
            recorded[version] = {provider: options(wheel, provider) for provider in ("cuda", "tensorrt")}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
