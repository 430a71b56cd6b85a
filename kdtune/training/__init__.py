"""Objectives, metrics, the training loop, one run, the teacher (torch).

- run: one distillation run
- teacher: fine-tuning of a teacher
- loop: the training loop, a generator of epochs
- objectives: distillation losses
- metrics: metrics of an epoch
- optim: optimisers and learning-rate schedules
- checkpoint: the state of a run in a file
- progress: progress of a run on a terminal

May import config, data, models and streams; never Ray.
"""
