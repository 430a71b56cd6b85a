"""Statistics as pure functions: numbers in, numbers out.

- intervals: means, paired and unpaired differences with their t intervals, Wilson's interval
- crossed: means over repeats and images with their t intervals, variance components
- multiplicity: p values adjusted for several comparisons (Holm, max-T)
- power: minimum detectable differences, repeats needed
- selection_bias: correction of the best of several accuracies (BBC-CV)
- sequential: always-valid p values and confidence sequences
- racing: configurations that may still be the best
- early_stopping: trials to prune
- chance: test of an accuracy against chance
- resampling: repeats that vary the train/val split (corrected t) or the teacher
- variance: shares of variance, repeated measures, importance of hyperparameters

Imports numpy and scipy.special only, no other package of kdtune.
"""
