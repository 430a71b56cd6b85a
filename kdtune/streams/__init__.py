"""What a repeat fixes, computed once and cached: views, teacher logits, features (torch).

- stream: the batches of a repeat
- chunks: one split in one epoch of one repeat
- features: what a frozen backbone computes
- cache: tensors on disk, shared by processes
- resources: device, cache and loader workers of a run

May import config, data and models.
"""
