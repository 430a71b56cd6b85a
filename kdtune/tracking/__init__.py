"""Trackers: a study's records sent to MLflow or Weights & Biases, while it runs or afterwards.

- sync: sending a study to a tracker, again and again; a failure is a warning
- mlflow: runs of an MLflow experiment: one per configuration, with a nested run for each repeat
- wandb: runs of a project of Weights & Biases: one per trial, grouped by configuration

May import config, storage and results. Only the command `kdtune.track` imports it. A search runs
that command as a process of its own for each tracker, so that a client that hangs, leaks or crashes
does no harm to the study.
"""
