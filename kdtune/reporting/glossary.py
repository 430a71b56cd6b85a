"""Glossary of the report: its terms in plain words."""

from kdtune.results.study_results import Results

OF_DISTILLATION = (
    *("alpha", "temperature", "repeat", "agreement", "for these images", "BBC-CV"),
    *("calibration error (ECE)", "NLL", "macro F1"),
)
"""Terms that only a study of distillation uses, or in this sense."""
GLOSSARY = {
    "alpha": (
        "Weight of the cross-entropy with the labels, from 0 to 1. The distillation loss has the "
        "weight 1 - alpha. With alpha = 1 the student learns from the labels alone: that is the "
        "baseline. Some papers use alpha the other way round."
    ),
    "temperature": (
        "The teacher's and the student's logits are divided by it before the softmax. A higher "
        "temperature makes the probabilities more equal, so that the student also learns how "
        "likely the teacher finds the wrong classes."
    ),
    "repeat": (
        "One random seed. It sets the initial weights, the order of the data, the augmentation and "
        "dropout. All configurations use the same repeats, so that each difference is taken "
        "between two students that differ in the configuration alone."
    ),
    "agreement": (
        "Share of images for which student and teacher predict the same class, right or wrong."
    ),
    "95% CI": (
        "Confidence interval. If the whole study were repeated many times, 95% of such intervals "
        "would contain the true value. A simultaneous interval is wider: in 95% of the studies "
        "all intervals of a table contain their true values together."
    ),
    "two-way interval": (
        "An interval for new repeats and new images. Both the seeds and the images of val are "
        "samples; other seeds and other images would give other numbers, and the interval counts "
        "both. It describes what to expect from the method on data like these."
    ),
    "for these images": (
        "An interval over repeats alone. It says what new seeds would give on exactly these "
        "images, and is too narrow for statements about other images."
    ),
    "p": (
        "Probability of a difference at least as large as the observed one if there were no "
        "difference at all. It is not the probability that there is no difference."
    ),
    "p (Holm)": (
        "The p value, raised for the number of comparisons in the table. With twenty comparisons "
        "one is below 0.05 by chance; Holm's method keeps the probability of any such error in the "
        "whole table below 5%."
    ),
    "p (max-T)": (
        "The same correction by another way: the signs of the differences of each repeat are "
        "flipped, and p is the share of all flips whose largest difference in the table reaches "
        "the observed one. It needs no normal distribution, but at least six repeats, and holds "
        "for these images."
    ),
    "win rate, P(better)": (
        "Share of the repeats in which the configuration is better than its baseline; ties count "
        "half. 0.5 means no difference. It says how often, not by how much."
    ),
    "BBC-CV": (
        "Bootstrap bias-corrected estimate. The best of many configurations looks better on val "
        "than it is, because val selected it. The correction selects on images drawn at random "
        "with replacement, and evaluates on the images that were not drawn."
    ),
    "held-out repeats": (
        "New seeds that are run after the finalists are fixed. No decision depended on them, so "
        "luck with seeds does not favour the winner."
    ),
    "always-valid": (
        "Holds however often the results were looked at, and whenever the study stopped. A usual "
        "p value holds only if the number of repeats was fixed beforehand."
    ),
    "minimum detectable difference": (
        "The true difference that a study of this size would find significant in 80% of the cases."
    ),
    "calibration error (ECE)": (
        "How far the confidence of a student is from its accuracy, on average. A student that is "
        "90% sure should be right in 90% of these cases."
    ),
    "NLL": (
        "Negative log-likelihood, in nats: the mean of -log of the probability of the label. Lower "
        "is better; confident errors cost most."
    ),
    "macro F1": (
        "Mean over classes of F1, which combines how many images of the class are found and how "
        "many of those found are right. Rare classes count as much as frequent ones."
    ),
}
"""Terms and what they mean."""


def glossary(results: Results) -> dict[str, str]:
    """Return the terms that the report of a study uses."""
    if results.task.is_distillation:
        return GLOSSARY
    return {term: text for term, text in GLOSSARY.items() if term not in OF_DISTILLATION}
