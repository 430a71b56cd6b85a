"""Data sets, and seeded views of their images (torch).

- dataset: a data set and its splits
- sources: data sets by name or path, one entry of a table for each source
- folder: data sets in folders of images
- views: seeded, augmented images before normalisation

May import config.
"""
