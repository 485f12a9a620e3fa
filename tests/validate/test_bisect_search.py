"""The ranking and the search for the cheapest set, with graphs of known losses."""
