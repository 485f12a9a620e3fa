"""Build kit: everything to build a TensorRT plan with `trtexec` where msal-deploy is not installed."""

from msal_deploy.package.build_kit.write import write

__all__ = ["write"]
