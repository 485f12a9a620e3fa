"""Scoring: the metrics of an engine on labelled patches, and its differences from a reference engine. No timing."""

from msal_deploy.scoring.score import EngineScore, probabilities, score_engine

__all__ = ["EngineScore", "probabilities", "score_engine"]
