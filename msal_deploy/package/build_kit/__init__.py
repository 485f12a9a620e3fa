"""Build kit: a folder that builds TensorRT plans with `trtexec`, on a machine without msal-deploy."""

from msal_deploy.package.build_kit.write import write

__all__ = ["write"]
