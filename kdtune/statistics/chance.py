"""Test of an accuracy against chance."""

from scipy.special import bdtrc


def chance_level(largest_class: int, n: int, classes: int) -> float:
    """Return the accuracy that needs no input: naming the largest class, at least 1 / K.

    Args:
        largest_class: examples of the most frequent class, in [0, n].
        n: number of examples, >= 1.
        classes: K.
    """
    return max(largest_class / n, 1 / classes)


def binomial_p(correct: int, n: int, chance: float) -> float:
    """Return the one-sided p value of the exact binomial test of an accuracy against chance.

    It is P(X >= correct) for X ~ Bin(n, chance), as in
    `scipy.stats.binomtest(correct, n, chance, alternative="greater")`.

    Args:
        correct: examples that are classified correctly, in [0, n].
        n: number of examples, >= 1.
        chance: accuracy without skill, in (0, 1].
    """
    return 1.0 if correct == 0 else float(bdtrc(correct - 1, n, chance))
