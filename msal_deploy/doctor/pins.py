"""The set of versions that works on a target, as files: for pip, for Docker, and for Docker Compose."""

from jinja2 import Environment, StrictUndefined

from msal_deploy.targets import Target
from msal_deploy.versions import parse_version

# TensorRT's packages on PyPI are sources that fetch NVIDIA's libraries while they are installed. What they fetch
# follows the pins only if pip is told by its environment, which the pip inside pip inherits.
REQUIREMENTS = """\
# {{ t.gpu }} (compute capability {{ t.sm }}): TensorRT {{ t.container.tensorrt }}, CUDA {{ t.container.cuda }}, \
Python {{ pythons }}, driver {{ drivers }}
# Written by: msal-deploy doctor --gpu {{ t.name }} --requirements FILE
#
# All of these are on PyPI. {{ tensorrt }} is a source package there: while it is built it fetches TensorRT's
# libraries from NVIDIA's own package index, which must be reachable. So these pins must hold for that too, and it
# must be built again in every new environment, which a cached wheel would spare it:
#
#   PIP_CONSTRAINT="$PWD/requirements.txt" pip install --no-cache-dir -r requirements.txt
#
{% if compiled %}# pycuda is compiled: it needs a C++ compiler, and CUDA {{ t.cuda }}'s nvcc. The container has both.
{% endif %}{% if wheel %}# PyTorch, where it is wanted: {{ version }} from PyTorch's own index for {{ wheel }}, \
the last with code for {{ t.sm }}.
{% endif %}{% for pin in t.pins %}{{ pin }}
{% endfor %}"""

DOCKERFILE = """\
# syntax=docker/dockerfile:1
# {{ t.gpu }} (compute capability {{ t.sm }}): TensorRT {{ t.container.tensorrt }}, CUDA {{ t.container.cuda }}
# Written by: msal-deploy doctor --gpu {{ t.name }} --dockerfile FILE
#
# The host needs a driver {{ drivers }} and the NVIDIA Container Toolkit. Put a wheel of msal-deploy beside this file
# (pip wheel --no-deps --wheel-dir . PATH_OF_THE_SOURCE), then:
#
#   docker build --file Dockerfile --tag msal-deploy:{{ t.name }} .
#   docker run --rm --gpus all --volume "$PWD:/data" msal-deploy:{{ t.name }} doctor --gpu {{ t.name }}
#
# Plans of this image load in nvcr.io/nvidia/tritonserver:{{ t.container.tag }}-py3, which has the same TensorRT.
FROM nvcr.io/nvidia/tensorrt:{{ t.container.tag }}-py3

RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir uv
{% if own_python %}# The image's Python {{ t.container.python }} has TensorRT already.
RUN uv venv --seed --system-site-packages --python python3 /opt/msal-deploy
{% else %}# The image has Python {{ t.container.python }}; msal-deploy begins with {{ t.python[0] }}.
RUN uv venv --seed --python {{ t.python[0] }} /opt/msal-deploy
{% endif %}ENV PATH="/opt/msal-deploy/bin:$PATH" PIP_CONSTRAINT=/opt/msal-deploy/requirements.txt PIP_NO_CACHE_DIR=1
COPY <<PINS /opt/msal-deploy/requirements.txt
{% for pin in pins %}{{ pin }}
{% endfor %}PINS
RUN pip install --requirement /opt/msal-deploy/requirements.txt
COPY msal_deploy-*.whl /tmp/
RUN pip install /tmp/msal_deploy-*.whl && rm /tmp/msal_deploy-*.whl
WORKDIR /data
ENTRYPOINT ["msal-deploy"]
"""

COMPOSE = """\
# {{ t.gpu }} (compute capability {{ t.sm }}): TensorRT {{ t.container.tensorrt }}, CUDA {{ t.container.cuda }}
# Written by: msal-deploy doctor --gpu {{ t.name }} --compose FILE
#
# Wants the Dockerfile of the same target beside it:  docker compose run --rm msal-deploy doctor --gpu {{ t.name }}
services:
  msal-deploy:
    build: .
    image: msal-deploy:{{ t.name }}
    volumes:
      - .:/data # bundles are read from here, and plans written to them
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""


def requirements(target: Target) -> str:
    """Return a requirements file for pip: what the target's TensorRT works with, and nothing of msal-deploy's own."""
    return _render(REQUIREMENTS, target)


def dockerfile(target: Target) -> str:
    """Return a Dockerfile upon NGC's TensorRT container for the target; it needs no other file but a wheel."""
    return _render(DOCKERFILE, target)


def compose_file(target: Target) -> str:
    """Return a compose file for the image of `dockerfile`."""
    return _render(COMPOSE, target)


def drivers(target: Target) -> str:
    """Return the driver branches that serve the target, in words."""
    first, last = target.driver.first, target.driver.last
    return f"R{first} to R{last}" if last else f"R{first} or later"


def pythons(target: Target) -> str:
    """Return the Python versions that serve the target, in words."""
    first, last = target.python
    return first if first == last else f"{first} to {last}"


def _render(template: str, target: Target) -> str:
    first, last = map(parse_version, target.python)
    own_python = first <= parse_version(target.container.python) <= last
    version, _, wheel = target.torch.partition("+")
    tensorrt = next((pin for pin in target.pins if pin.startswith("tensorrt")), "TensorRT")
    return _ENVIRONMENT.from_string(template).render(
        t=target,
        drivers=drivers(target),
        pythons=pythons(target),
        own_python=own_python,
        # TensorRT of the image, where it is used, is not installed a second time.
        pins=[pin for pin in target.pins if not (own_python and pin.startswith("tensorrt"))],
        version=version,
        wheel=wheel,
        compiled=any(pin.startswith("pycuda") for pin in target.pins),
        tensorrt=tensorrt,
    )


# Text for pip and Docker, not for a page: nothing is escaped.
_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
