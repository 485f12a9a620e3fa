"""Read a TorchScript file, run it, and write it again, with the torch of the Python that runs this.

    python rewrite_torchscript.py model.pt input.npy rewritten.pt output.npy

It needs torch and numpy, and prints torch's version. A torch reads the files of older ones, but not always those of
newer ones. What an old torch has written, it and all later ones can read.
"""

import sys

import numpy as np
import torch


def main() -> None:
    """Run the command line."""
    source, images, target, result = sys.argv[1:]
    module = torch.jit.load(source)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        probability = module(torch.from_numpy(np.load(images)))
    np.save(result, probability.numpy())
    torch.jit.save(module, target)
    print(torch.__version__)


if __name__ == "__main__":
    main()
