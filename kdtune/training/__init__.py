"""Objectives, metrics, the training loop, one run, the teacher (torch).

- run: one distillation run, and the checks before it
- teacher: fine-tuning of a teacher
- loop: the training loop, a generator of epochs
- one_batch: one batch without a stream, for its memory and its time
- objectives: the table of distillation losses, and the user's own
- metrics: metrics of an epoch, from the table in config/metrics
- predictions: a student's predictions and their file
- optim: optimisers and learning-rate schedules
- checkpoint: the state of a run in a file
- progress: progress of a run on a terminal

A new objective is one function in objectives.OBJECTIVES. May import config, data, models and
streams; never Ray.
"""
