"""What a runtime says of a graph that it cannot use, as one sentence."""

import re

# Before they say what is wrong, OpenVINO and ONNX Runtime say where in their sources they noticed it.
NOISE = re.compile(
    r"exception from \S+:\d+:?|while (validating|checking) (onnx )?node '.*?'( with friendly_name '.*?')?:?"
    r"|check '.*' failed at \S+:\d+:?|shape inference input shapes .*|frontend api failed with \w+:?"
    r"|loading input model$|model wasn't fully converted.*|-- \S+ with a message:|summary:$"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ :|load model from .*? failed:|\S+\.(cc|cpp|h|hpp):\d+"
    r"|(void |bool |static )*onnxruntime::[\w:]+(<.*>)?\(.*?\)( const)?(?= [A-Z])",
    re.IGNORECASE,
)
LONGEST = 200  # characters


def sentence(error: BaseException) -> str:
    """Return the first line of an error that says what is wrong, without the source files that it was thrown in.

    >>> sentence(RuntimeError("Exception from src/core.cpp:97:\\nException from src/a.cpp:12:\\nNo such operator\\n"))
    'No such operator'
    >>> sentence(KeyError())
    'KeyError'
    """
    lines = (" ".join(NOISE.sub(" ", line).split()).strip(" :;.") for line in str(error).splitlines())
    said = next((line for line in lines if line), type(error).__name__)
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
