"""Pure functions: numbers in, numbers out (numpy, scipy).

- intervals: means, paired differences and their t intervals
- multiplicity: p values of several comparisons (Holm, max-T)
- power: minimum detectable differences, repeats needed
- selection_bias: correction of the best of several accuracies
- sequential: p values and intervals that are valid however often the data are looked at
- racing: which configurations may still be the best
- early_stopping: which trials to prune
- variance: shares of variance

Imports nothing of kdtune.
"""
