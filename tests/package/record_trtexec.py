"""Record the options that trtexec takes, for the fake that stands in for it (``fake_trtexec.py``).

    git clone https://github.com/NVIDIA/TensorRT
    python tests/package/record_trtexec.py TensorRT

Its parser takes each option by name and refuses what is left over, so the names in its source are the options it has.
Only the names are kept.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

TAGS = {"8.6.1": "v8.6.1", "10.4.0": "v10.4.0", "10.16.0": "v10.16", "11.0.0": "v11.0", "11.1.0": "v11.1"}
SOURCE = "samples/common/sampleOptions.cpp"


def main() -> None:
    found = {}
    for version, tag in TAGS.items():
        command = ["git", "-C", sys.argv[1], "show", f"{tag}:{SOURCE}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        names = sorted(set(re.findall(r'"(--?[A-Za-z0-9]+)"', text)))
        found[version] = {"source": f"NVIDIA/TensorRT {tag}: {SOURCE}", "options": names}
    Path(__file__).with_name("trtexec_options.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
