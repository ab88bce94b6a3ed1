"""Judge a model honestly: its answers with the audio, without it, and what always guessing the same would score."""

from audiollm.evaluation.results import EvaluationResult, ScoredAnswer, TaskScore, write_results
from audiollm.evaluation.retrieval import evaluate_towers
from audiollm.evaluation.run import evaluate

__all__ = ["EvaluationResult", "ScoredAnswer", "TaskScore", "evaluate", "evaluate_towers", "write_results"]
