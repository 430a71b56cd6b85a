"""Data sets, and seeded views of their examples (torch).

- arrays: data sets from arrays, torch datasets and factories, and images without labels
- dataset: data sets: classes, splits, folds, hashes by content
- sources: data sets by name or path
- folder: a data set in a folder of images
- views: seeded views of a split's examples: augmentation and mixing
- checks: checks of data: class balance, copies, changes while a study runs

May import config.
"""
