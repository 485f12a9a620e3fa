"""Keep of a CycloneDX document on stdin what identifies packages and licences: `make sbom` writes the rest away.

Descriptions, links and properties of packages make up two thirds of it, and may name hosts and folders of a machine.
"""

import json
import sys

KEPT = ("bom-ref", "name", "version", "purl", "type", "licenses")


def plain(component: dict[str, object]) -> dict[str, object]:
    """Return a component with what is kept of it."""
    return {key: component[key] for key in KEPT if key in component}


document = json.load(sys.stdin)
document["components"] = [plain(component) for component in document["components"]]
metadata = document.get("metadata", {})
document["metadata"] = {"component": plain(metadata["component"])} if "component" in metadata else {}
json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
print()
