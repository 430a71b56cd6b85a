"""Trained students, ready to use: from images to probabilities, without the study's data (torch).

- trained: a trained student as a torch module, its predictions of image files, its loading

May import config, storage, data, models.
"""
