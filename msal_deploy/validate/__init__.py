"""Validate: compare the segmentation of engines with a reference engine on labelled images. No timing."""

from msal_deploy.validate.run import ValidationReport, validate

__all__ = ["ValidationReport", "validate"]
