"""Trackers: a study that runs is sent to MLflow or Weights & Biases.

- callbacks: a callback of Ray Tune that sends trials in a thread, and the clients of the trackers

May import config, storage and results. Only the driver in raytune imports it.
"""
