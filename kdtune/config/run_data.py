"""Fields of a run: the data and what is made of them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kdtune.config.bounds import MAX_COUNT, MAX_REPEAT
from kdtune.config.fields import OF_STUDENT, Hyperparameter, Setting
from kdtune.config.names import DataName

Augment = Literal["none", "crop", "resized-crop", "trivial"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Orientation = Literal["exif", "stored"]


@dataclass(frozen=True)
class DataFields:
    """Data, labelled and not, and the views of their images."""

    data: Annotated[DataName, Setting(place=True)] = "fashion"
    """Data: "fashion" (the embedded Fashion-MNIST subset), torchvision:NAME (such as
    torchvision:CIFAR10), module:factory, or a folder with train/, val/ and optionally test/, each
    with one subfolder of images per class."""
    data_root: Annotated[str | None, Setting(defines=False, place=True)] = None
    """Folder that holds the files of torchvision:NAME. None: torchvision in the user's cache
    folder."""
    download: Annotated[bool, Setting(defines=False)] = False
    """Download the files of torchvision:NAME if they are not in --data-root."""
    val_share: Annotated[float, Setting(above=0, below=1)] = 0.2
    """Share of train that becomes val where the data have no val: drawn with the seed, the same
    share of each class."""
    folds: Annotated[int | None, Setting(low=2, high=MAX_REPEAT, commands=OF_STUDENT)] = None
    """Pool train and val, and split them anew in each repeat: N folds of equal size with the same
    share of each class, of which one is val and the others are train. Each repeat takes the next
    fold and, after all N, a new partition into folds. Each repeat has a teacher of its own,
    fine-tuned on its train. Test stays apart. None: the data's own val, the same in all repeats."""
    train_images: Annotated[int | None, Setting(low=1, high=MAX_COUNT, commands=OF_STUDENT)] = None
    """Number of labelled images that the student learns from, drawn evenly over the classes. None:
    all of train."""
    extra: Annotated[str | None, Setting(commands=OF_STUDENT, place=True)] = None
    """Images without labels, from which the student learns what the teacher says of them: a folder
    of images, in which subfolders have no meaning; module:factory; or "rest", the images of train
    that --train-images leaves out. Labels that they may have are not used. See --extra-share."""
    image_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the augmented images in pixels. None: the largest input size of the models."""
    augment: Annotated[Augment | None, Hyperparameter(of_study=True, resolved=True)] = None
    """Augmentation of the training images: "crop" (pad by an eighth, crop, flip), "resized-crop"
    (RandomResizedCrop, flip), "trivial" (crop or resized-crop as the data need it, then
    TrivialAugment) or "none". None: "crop" for images of one size, "resized-crop" for files."""
    orientation: Annotated[Orientation | None, Setting(resolved=True)] = None
    """Orientation of image files: "exif" (rotated and mirrored as their EXIF data say, as viewers
    show them) or "stored" (as the pixels are stored in the file). None: exif; but stored for a
    study that an earlier version of kdtune began."""
    eval_crop: Annotated[float | None, Setting(above=0, high=1, resolved=True)] = None
    """Side of the central crop of val and test images, as a share of the resized image's shorter
    side; 1 crops only to a square. None: that of the teacher's published evaluation transform, else
    0.875; but 1 for images of one size that are no larger than the teacher's input."""
    eval_interpolation: Annotated[Interpolation | None, Setting(resolved=True)] = None
    """Interpolation with which val and test images are resized, and those of train unless
    RandomResizedCrop does it. None: that of the teacher's published evaluation transform, else
    bilinear."""
