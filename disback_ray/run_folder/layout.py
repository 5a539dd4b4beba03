"""What lies in a run's folder, by name, and the stages that its steps are of."""

from disback_ray.algorithms import backtracking, degradation

CONFIG, SUMMARY, METRICS, CHECKPOINTS, MANIFEST = "config.yaml", "summary.json", "metrics.parquet", "checkpoints", "manifest.json"
STAGES = (backtracking.TRIAL, degradation.STAGE, backtracking.WARM, backtracking.STAGE)
"""In which steps are made, in their order."""
