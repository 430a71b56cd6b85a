"""Trial of a model on two views of the data, before any work: what it returns and what learns."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from kdtune.config.errors import InputError, first_line
from kdtune.config.inputs import are_images
from kdtune.config.names import is_object
from kdtune.config.user_code import no_exit
from kdtune.models.classifier import Classifier, describe_assumption


def probe(model: Classifier, views: Tensor, classes: int, whole: bool) -> None:
    """Run the model on two views, and warn if it has no preprocessing of its own.

    Args:
        model: on the CPU.
        views: two of the data, [2, ...].
        classes: K of the data.
        whole: whether all its layers learn. If not, its head must be its last operation, since
            features then replace views.

    Raises:
        InputError: the model fails, or its logits or head do not fit.
    """
    if are_images(views):
        if not model.is_normalized:
            warnings.warn(describe_assumption(model), stacklevel=1)
        model.preprocessing.check_channels(views, model.name)
    before = views.clone()
    shape = f"{list(views.shape[1:])} and type {str(views.dtype).removeprefix('torch.')}"
    try:
        with torch.no_grad(), no_exit(f"the model {model.name}"):
            model.set_mode(False)
            in_train_mode = [key for key, part in model.net.named_modules() if part.training]
            logits, features = model(views), model.features(views)
            from_head = model.classify(features)
            model.set_mode(True)
            in_training = model(views)
    except InputError:
        raise
    except Exception as error:  # a user's model may raise anything
        reason = first_line(error, 120)
        raise InputError(f"{model.name} fails on views of shape {shape} ({reason})") from None
    if in_train_mode:
        part = f"its part {in_train_mode[0]}" if in_train_mode[0] else "it"
        raise InputError(
            f"{model.name} must be in eval mode after train(False), but {part} stays in train "
            f"mode, so that an evaluation would change it or be random; leave its method train() "
            f"as torch has it"
        )
    if not torch.equal(views, before):
        raise InputError(
            f"{model.name} must leave its input as it is, but changes it in place; the other "
            f"model and other epochs get the same: compute a new tensor instead"
        )
    _check_logits(model.name, logits, classes)
    _check_logits(model.name, in_training, classes, " in train mode")
    if not whole and (from_head.shape != logits.shape or not torch.allclose(from_head, logits)):
        raise InputError(
            f"{model.name} cannot be trained with --trainable head, since its last layer "
            f"{model.head_name} is not its last operation; use --trainable all"
        )


def _check_logits(name: str, logits: Tensor, classes: int, mode: str = "") -> None:
    """Raise InputError unless logits of two views are finite numbers, one for each class."""
    if logits.shape != (2, classes):
        remedy = "Let its factory have a parameter num_classes and return a module"
        if is_object(name):
            remedy = "Pass a module, or a function with a parameter num_classes that returns one,"
        raise InputError(
            f"{name} must return logits [B, {classes}], one for each class of the data, but "
            f"got {list(logits.shape)}{mode}. {remedy} with as many outputs."
        )
    if logits.device.type == "meta" or not logits.isfinite().all():
        raise InputError(
            f"{name} must return finite logits, but some of its logits for two of the data's "
            f"examples are NaN or infinite{mode}, before any training; check its weights and its "
            f"forward"
        )


def check_some_learn(model: Classifier, what: str) -> None:
    """Raise InputError, which begins with `what`, if requires_grad is False for all parameters."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"{what} must have parameters that learn, but requires_grad is False for all; set it "
            f"to True (net.requires_grad_())"
        )


def check_learns(model: Classifier, views: Tensor, whole: bool) -> None:
    """Raise InputError if the gradient of the logits reaches no parameter; warn if it is zero.

    Args:
        model: on the CPU, after `probe`.
        views: two of the data, [2, ...].
        whole: whether all its layers learn, and not only its head.
    """
    trained = [p for p in (model if whole else model.head).parameters() if p.requires_grad]
    if whole:
        check_some_learn(model, model.name)
    if not trained:
        return  # a frozen head is set to learn
    model.set_mode(True)
    try:
        with torch.enable_grad():
            logits = model(views)
            # other weights for each logit: the sum of probabilities, for one, is a constant
            loss = (logits * torch.linspace(1, 2, logits.numel()).view_as(logits)).sum()
            found = torch.autograd.grad(loss, trained, allow_unused=True)
    except RuntimeError as error:
        detached = not logits.requires_grad if "logits" in locals() else False
        reason = "its logits have no gradient" if detached else first_line(error, 120)
        raise InputError(
            f"{model.name} cannot learn: {reason}; its forward must compute the logits from its "
            f"parameters without detach(), torch.no_grad() or operations in place"
        ) from None
    reached = [g for g in found if g is not None]
    if not reached:
        raise InputError(
            f"{model.name} cannot learn: its logits do not depend on its parameters that are "
            f"trained (requires_grad)"
        )
    if not torch.equal(*views) and not any(g.ndim > 1 and g.any() for g in reached):
        warnings.warn(
            f"the logits of {model.name} do not depend on its input for two of the data's "
            f"examples, since the gradient of all its weights but the biases is 0; check its "
            f"forward and its initial weights",
            stacklevel=1,
        )


def check_single(
    model: Classifier, views: Tensor, count: int, batch_sizes: Iterable[int], flag: str
) -> None:
    """Raise InputError if the last batch has one example, from which the model cannot learn.

    Args:
        model: on the CPU, after `probe`.
        views: two of the data, [2, ...].
        count: number of examples of an epoch.
        batch_sizes: those that are used.
        flag: of the batch size.
    """
    lonely = [size for size in batch_sizes if size == 1 or count % size == 1]
    if not lonely:
        return
    model.set_mode(True)
    try:
        with torch.no_grad():
            model(views[:1])
    except Exception as error:  # that of batch norm is a ValueError
        raise InputError(
            f"{model.name} cannot be trained on a batch of one example ({first_line(error, 80)}), "
            f"but {flag} {lonely[0]} makes such a batch of {count:,} examples; give another "
            f"{flag}, or layers without batch statistics"
        ) from None
