"""Time ONNX Runtime on one image, in a bare loop with IO binding, and print the latencies as JSON.

The wheel has no ``onnxruntime_perf_test``, and its ``onnxruntime.tools.onnxruntime_test`` has no options for threads,
makes random inputs and prints only a mean.

Example: python benchmarks/peers/onnxruntime_perf.py model.onnx image.npy --threads 2 --seconds 3
"""

import argparse
import json
from statistics import fmean, median
from time import perf_counter

import numpy as np
import onnxruntime

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("graph", help="An ONNX file with one input and one output.")
    parser.add_argument("image", help="An NPY file with the input.")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0)
    words = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = words.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(words.graph, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    image = onnxruntime.OrtValue.ortvalue_from_numpy(np.load(words.image))
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    latencies: list[float] = []
    end = float("inf")
    while len(latencies) < WARM_UP or perf_counter() < end:
        start = perf_counter()
        session.run_with_iobinding(binding)
        latencies.append((perf_counter() - start) * 1000)
        if len(latencies) == WARM_UP:
            end = perf_counter() + words.seconds
    timed = latencies[WARM_UP:]
    print(json.dumps({"p50_ms": median(timed), "mean_ms": fmean(timed), "runs": len(timed)}))


if __name__ == "__main__":
    main()
