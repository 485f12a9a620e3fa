"""Package a bundle for another program: a self-contained folder, with golden tiles to verify the integration.

Each integration is a module here with ``write(bundle, folder, options) -> str``: it fills `folder` and returns what to
do next. `write_package` adds the golden tiles and writes the folder completely or not at all.
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
