"""Doctor: inspect this machine, check it against a target, and write versions that work together.

==============  ======================================================================================
`machine`       what this machine has: GPUs, driver, packages, runtimes, processor, memory, disk
`capabilities`  what a machine can do without a GPU
`checks`        each part of the machine compared with what a target needs
`pins`          versions that work together, as a requirements file, a Dockerfile and a compose file
`estimates`     roofline estimates for the graphs of a bundle, and whether TensorRT can parse them
`report`        all results, as tables and as JSON
`run`           the stage `doctor`
==============  ======================================================================================
"""

from msal_deploy.doctor.checks import Check, check_machine
from msal_deploy.doctor.machine import Machine, inspect_machine
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
    "dockerfile",
    "doctor",
    "inspect_machine",
    "requirements",
]
