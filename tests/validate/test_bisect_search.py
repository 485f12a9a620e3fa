"""The ranking and the search for the cheapest set, with graphs of known losses."""

import numpy as np
import pytest

from msal_deploy.data import Patch
from msal_deploy.metrics import Interval
from msal_deploy.validate.bisect import search
from msal_deploy.validate.bisect.evaluate import Trial
from msal_deploy.validate.bisect.tensors import NodeError
