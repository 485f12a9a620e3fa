"""bioimage.io: a model package (RDF 0.5) with ONNX and TorchScript weights, for QuPath, ImageJ and other programs."""

from msal_deploy.package.bioimageio.write import write

__all__ = ["write"]
