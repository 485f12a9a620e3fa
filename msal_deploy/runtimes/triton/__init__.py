"""Triton: a model on a running server, over HTTP or gRPC, as an engine.

===========  ===========================================================================
`engine`     `TritonEngine`, and `Retries` of failed requests
`address`    the server address in an engine's id
`protocols`  HTTP and gRPC behind one interface
`session`    one connection to one model, with its checks and shared memory
===========  ===========================================================================
"""

from msal_deploy.runtimes.triton.engine import Retries, TritonEngine

__all__ = ["Retries", "TritonEngine"]
