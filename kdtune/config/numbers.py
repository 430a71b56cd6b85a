"""Text of numbers: short, and distinct also close to 1."""

from decimal import Decimal

_CLOSE_TO_ONE = 0.99
"""Above it, significant digits are those of the distance from 1."""


def short(value: float, digits: int) -> str:
    """Return a number with so many significant digits; close below 1 they are those of 1 - value.

    0.99987 and 0.99991 are as different as 0.00013 and 0.00009 on the log-odds scale; with three
    digits of their own both would be 1, which is a different hyperparameter value altogether.

    >>> short(0.123456, 3), short(0.00123456, 3), short(0.99876544, 3)
    ('0.123', '0.00123', '0.99877')
    """
    if not _CLOSE_TO_ONE < value < 1:
        return f"{value:.{digits}g}"
    return f"{1 - Decimal(f'{1 - value:.{digits}g}'):f}"
