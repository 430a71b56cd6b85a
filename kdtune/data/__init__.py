"""Data sets, and seeded views of their examples (torch).

- dataset: a data set and its splits
- decoding: image files to pixels, rotated as their EXIF data say
- sources: data sets by name or path, one entry of a table for each source
- scan: image files in folders: which are taken, and what is refused or said about others
- folder: data sets in folders of images
- torchvision_data: datasets of torchvision by name, one entry of a table for each naming of splits
- user_data: data sets that a function of the user's makes
- arrays: checks and conversion of inputs and labels
- torch_datasets: examples and labels of torch's datasets
- extra: images without labels, a further split of the data
- val_cut: a val that is cut from train
- folds: train and val pooled, and split anew in each repeat
- changes: whether data are still those that a study has read
- content: hashes of data by content, and notes of costly results
- balance: examples of each class, as they are recorded and said before a study
- overlap: copies of examples in several splits or classes
- augmentations: the table of augmentations
- views: seeded, augmented images before normalisation; other tensors as they are
- mixing: mixup and CutMix of a training batch

May import config.
"""
