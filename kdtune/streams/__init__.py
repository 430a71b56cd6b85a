"""Streams: everything that a repeat fixes, computed once and cached on disk (torch).

A *stream* is the sequence of batches of one repeat: the order of the images, their augmentation,
the teacher's logits (and its features, where a loss compares them) and, if the student's backbone
is frozen, its features. A *view* is an augmented image before normalisation. A *chunk* is what one
split gives in one epoch of one repeat (its logits or its features), and an entry of the cache;
views are cached in *shards* of bounded size.

- stream: the batches of a repeat
- batches: consecutive images with their labels, views, features and logits
- mixtures: the training batches of an epoch, mixed
- teacher_passes: logits and features of the teacher
- extra: images without labels, an endless sequence beside the labelled ones
- features: the output of a frozen backbone
- shards: the views of a split
- chunks: chunks in memory, from the cache or built
- keys: the keys of the cache
- cache: tensors on disk, shared by all processes of a machine
- entries: the files of the cache
- variants: the streams of a repeat that differ by augmentation, mixing or batch size
- working_set: the bytes that a study needs in the cache, and what is stored there
- resources: device, cache and loader workers of a run; checks of the machine

May import config, data and models.
"""
