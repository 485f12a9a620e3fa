"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing."""

from msal_deploy.scoring.outputs import OutputFindings, check_output
from msal_deploy.scoring.score import EngineScore, probabilities, score_engine

__all__ = ["EngineScore", "OutputFindings", "check_output", "probabilities", "score_engine"]
