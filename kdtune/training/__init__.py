"""Objectives, metrics, the training loop, one run, the teacher (torch).

- run: one distillation run, and the checks before it
- teacher: fine-tuning of a teacher
- output_teacher: the teacher of a file of outputs, matched with the examples of the data
- dump: writing a teacher's outputs into such a file
- transforms: record of the transforms of images and models
- teacher_origin: the training that makes a teacher, and whether a saved one was made by it
- model_checks: checks of models on views of the data, before any work
- other_cut: warnings of teachers that may have trained on images of val
- evaluation: accuracy of a teacher on the splits
- gate: accuracy of all teachers, measured once
- recipe: settings that follow from data and models where they are not given
- recipe_table: settings of a study, and where they came from
- loop: the training loop, a generator of epochs
- one_batch: one batch without a stream, for its memory and its time
- losses: the loss of a batch
- objectives: the table of distillation losses, the user's own, and sums of two
- logit_losses: distillation losses of logits
- feature_losses: distillation losses of features
- projector: linear projector from the features of the student to those of the teacher
- metrics: metrics of an epoch, from the table in config/metrics
- predictions: a student's predictions and their file
- optim: optimisers, their steps and learning-rate schedules
- averaging: the exponential moving average of a student's weights
- checkpoint: the state of a run in a file
- progress: progress of a run on a terminal

A new objective is one function in logit_losses, listed in objectives.OBJECTIVES. May import config,
data, models and streams; never Ray.
"""
