"""Streams: everything that a repeat fixes, computed once and cached on disk (torch).

- cache: content-addressed cache of tensors on disk, shared by all processes of a machine
- stream: the stream of one repeat: its batches, computed once and shared by every configuration,
  and the passes of frozen networks that they need: features, teacher logits
- views: batches and cached views of a split, and what a run runs on

A *stream* is the sequence of batches of one repeat: the order of the images, their augmentation,
the teacher's logits (and its features, where a loss compares them) and, if the student's backbone
is frozen, its features. A *view* is an augmented image before normalisation. A *chunk* is what one
split gives in one epoch of one repeat (its logits or its features), and an entry of the cache;
views are cached in *shards* of bounded size.

May import config, data and models.
"""
