"""Trained students, ready to use: from images to probabilities, without the study's data (torch).

- loading: loading of trained students
- trained: a trained student as a torch module, and its predictions of image files

May import config, storage, data, models.
"""
