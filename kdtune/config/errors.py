"""Errors that the user can mend."""


class InputError(ValueError):
    """What the user gave cannot work. The message is one sentence: the value, and what would do."""
