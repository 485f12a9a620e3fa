"""Find the nodes that make an FP16 or INT8 engine lose Dice.

============  ===============================================================================
`run`         `bisect`: the steps, from the engine as it is to the cheapest set
`graphs`      a graph of low precision whose nodes can be returned to float; `int8`, `fp16`
`tensors`     the error of each node, by Polygraphy; `rounding` has the arithmetic
`evaluate`    the Dice of a graph with nodes in float, and the log of trials
`search`      the ranking, and the search for the cheapest set
`report`      the result as JSON and as a table
============  ===============================================================================
"""

from msal_deploy.validate.bisect.report import BisectReport, NodeGain
from msal_deploy.validate.bisect.run import bisect

__all__ = ["BisectReport", "NodeGain", "bisect"]
