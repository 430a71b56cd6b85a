"""Statistics as pure functions: numbers in, numbers out.

- intervals: means, differences and their intervals over repeats and images
- tests: adjusted p values, non-inferiority, power, and always-valid tests
- selection: selection of configurations: racing, pruning, selection bias, which may be the best,
  sources of variance

Imports numpy and scipy.special only, no other package of kdtune.
"""
