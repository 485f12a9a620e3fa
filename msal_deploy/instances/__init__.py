"""From a probability map to separate nuclei. Used by validate and predict."""

from msal_deploy.instances.separate import Separation, separate

__all__ = ["Separation", "separate"]
