"""Versions that work together on a target, written as files for pip, Docker and Docker Compose."""

from jinja2 import Environment, StrictUndefined

from msal_deploy.targets import Target
from msal_deploy.versions import parse_version

# TensorRT's packages on PyPI are source packages that run pip to download NVIDIA's libraries. That inner pip follows
# the pins only if they are in its environment, which it inherits.
REQUIREMENTS = """\
# {{ t.gpu }} (compute capability {{ t.sm }}): TensorRT {{ t.container.tensorrt }}, CUDA {{ t.container.cuda }}, \
Python {{ pythons }}, driver {{ drivers }}
# Written by: msal-deploy doctor --gpu {{ t.name }} --requirements FILE
#
# All of these are on PyPI. {{ tensorrt }} is a source package: building it downloads TensorRT's libraries from
# NVIDIA's package index, which must be reachable. PIP_CONSTRAINT applies these pins to that download too, and
# --no-cache-dir makes pip build it in each new environment, because a cached wheel would skip the download:
#
#   PIP_CONSTRAINT="$PWD/requirements.txt" pip install --no-cache-dir -r requirements.txt
#
{% if compiled %}# Installing pycuda needs a C++ compiler and the nvcc of CUDA {{ t.cuda }}. The container has both.
{% endif %}{% if wheel %}# PyTorch, if you need it: {{ version }} from PyTorch's package index for {{ wheel }}, \
the last version with code for {{ t.sm }}.
{% endif %}{% for pin in t.pins %}{{ pin }}
{% endfor %}"""

DOCKERFILE = """\
# syntax=docker/dockerfile:1
# {{ t.gpu }} (compute capability {{ t.sm }}): TensorRT {{ t.container.tensorrt }}, CUDA {{ t.container.cuda }}
# Written by: msal-deploy doctor --gpu {{ t.name }} --dockerfile FILE
#
# The machine needs driver {{ drivers }} and the NVIDIA Container Toolkit. Put a wheel of msal-deploy next to this file
# (pip wheel --no-deps --wheel-dir . PATH_OF_THE_SOURCE), then run:
#
#   docker build --file Dockerfile --tag msal-deploy:{{ t.name }} .
#   docker run --rm --gpus all --volume "$PWD:/data" msal-deploy:{{ t.name }} doctor --gpu {{ t.name }}
#
# Plans built in this image load in nvcr.io/nvidia/tritonserver:{{ t.container.tag }}-py3, which has the same TensorRT.
FROM nvcr.io/nvidia/tensorrt:{{ t.container.tag }}-py3

RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir uv
{% if image_python %}# The image's Python {{ t.container.python }} already has TensorRT.
RUN uv venv --seed --system-site-packages --python python3 /opt/msal-deploy
{% else %}# The image has Python {{ t.container.python }}; msal-deploy needs {{ t.python[0] }} or later.
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
# Needs the Dockerfile of the same target next to it:  docker compose run --rm msal-deploy doctor --gpu {{ t.name }}
services:
  msal-deploy:
    build: .
    image: msal-deploy:{{ t.name }}
    volumes:
      - .:/data # the folder with your bundles; plans are written into them
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""


def requirements(target: Target) -> str:
    """Return a requirements file for pip with the target's pins. It does not list msal-deploy.

    >>> from msal_deploy.targets import find_target
    >>> print(requirements(find_target("t4")).splitlines()[-5])
    tensorrt-cu13==11.2.1.2
    """
    return _render(REQUIREMENTS, target)


def dockerfile(target: Target) -> str:
    """Return a Dockerfile based on NGC's TensorRT image for the target. A build needs only a wheel of msal-deploy.

    >>> from msal_deploy.targets import find_target
    >>> "FROM nvcr.io/nvidia/tensorrt:26.08-py3" in dockerfile(find_target("t4"))
    True
    """
    return _render(DOCKERFILE, target)


def compose_file(target: Target) -> str:
    """Return a Docker Compose file that runs the image of `dockerfile` on one GPU.

    >>> from msal_deploy.targets import find_target
    >>> "image: msal-deploy:t4" in compose_file(find_target("t4"))
    True
    """
    return _render(COMPOSE, target)


def drivers(target: Target) -> str:
    """Return the driver branches that support the target, such as ``R535 to R580``."""
    first, last = target.driver.first, target.driver.last
    return f"R{first} to R{last}" if last else f"R{first} or later"


def pythons(target: Target) -> str:
    """Return the Python versions that support the target, such as ``3.11 to 3.14``."""
    first, last = target.python
    return first if first == last else f"{first} to {last}"


def _render(template: str, target: Target) -> str:
    first, last = map(parse_version, target.python)
    image_python = first <= parse_version(target.container.python) <= last
    version, _, wheel = target.torch.partition("+")
    tensorrt = next((pin for pin in target.pins if pin.startswith("tensorrt")), "TensorRT")
    return _ENVIRONMENT.from_string(template).render(
        t=target,
        drivers=drivers(target),
        pythons=pythons(target),
        image_python=image_python,
        # The image's own Python already has TensorRT.
        pins=[pin for pin in target.pins if not (image_python and pin.startswith("tensorrt"))],
        version=version,
        wheel=wheel,
        compiled=any(pin.startswith("pycuda") for pin in target.pins),
        tensorrt=tensorrt,
    )


# The output is for pip and Docker, not HTML, so nothing is escaped.
_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
