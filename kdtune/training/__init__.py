"""Objectives, metrics, the training loop, one run, the teacher (torch).

- epoch: one epoch of training: its losses, averaged weights, metrics and predictions
- losses: distillation losses: pure functions, and the table of them
- loop: the training loop: a generator of epochs, with its optimisers and checkpoints
- run: one distillation run: one student learns from one teacher
- recipe: the recipe: settings that follow from data and models where they are not set
- teachers: fine-tuning, identity, accuracy, and files of their outputs

A new objective is one function in losses, listed in losses.OBJECTIVES and declared in LOSSES of
config/fields.py. May import config, data, models and streams; never Ray.
"""
