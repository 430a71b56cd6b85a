"""Trained students, ready to use: from images to probabilities, without the study's data (torch).

- trained: a student as a torch module
- loading: load_student, from a study, its students/ or one file of weights
- places: where a study's students are, here or on an object store
- earlier: what the students of earlier versions do not record
- image_files: image files in folders and of patterns
- predicting: predictions of image files

May import config, storage, data, models.
"""
