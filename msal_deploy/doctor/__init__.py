"""Doctor: what is here, what a target needs, and a set of versions that works.

===========  ==========================================================================================
`machine`    what is here: GPUs and driver through NVML, packages, runtimes, processor, memory, disk
`checks`   each of these against what a target needs
`pins`       the set that works, as a requirements file, a Dockerfile and a compose file
`estimates`  what the graphs of a bundle cost on the targets, and whether TensorRT reads them
`report`     all of that, as tables and as JSON
===========  ==========================================================================================
"""

from msal_deploy.doctor.checks import Check, check_machine
from msal_deploy.doctor.machine import Machine, describe
from msal_deploy.doctor.pins import compose_file, dockerfile, requirements
from msal_deploy.doctor.report import DoctorReport
from msal_deploy.doctor.run import doctor
from msal_deploy.hardware import Gpu

__all__ = [
    "Check",
    "DoctorReport",
    "Gpu",
    "Machine",
    "check_machine",
    "compose_file",
    "describe",
    "dockerfile",
    "doctor",
    "requirements",
]
