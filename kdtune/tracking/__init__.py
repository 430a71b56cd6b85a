"""Trackers: a study's records sent to MLflow or Weights & Biases, while it runs or afterwards.

- records: reading of the records from where the last reading ended, grouped by trial
- tracker: the interface of a tracker, and the table of trackers
- sync: sending what a tracker lacks, again and again; a failure is a warning
- mlflow_tracker: runs of an MLflow experiment, nested by configuration
- wandb_tracker: runs of a project of Weights & Biases, grouped by configuration

May import config, storage and results. Only the command `kdtune.track` imports it. A search runs
that command as a process of its own for each tracker, so that a client that hangs, leaks or crashes
does no harm to the study.
"""
