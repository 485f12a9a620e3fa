"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing.

===============  =====================================================================