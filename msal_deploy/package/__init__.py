"""Package a bundle for an integration (C++, Triton, bioimage.io, TensorRT build kit) as a self-contained folder.

Each package holds golden tiles: reference images and probabilities that the integration must reproduce.

Each integration is a module of this package with ``write(bundle, folder, options) -> str``, which fills `folder` and
returns the next step for the user. `write_package` adds the golden tiles, and writes the folder completely or not at
all.
"""

from msal_deploy.package.options import INTEGRATIONS, PREFERRED, PackageOptions, choose_options
from msal_deploy.package.run import PackageReport, is_package, write_package

__all__ = [
    "INTEGRATIONS",
    "PREFERRED",
    "PackageOptions",
    "PackageReport",
    "choose_options",
    "is_package",
    "write_package",
]
