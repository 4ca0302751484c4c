# SPDX-License-Identifier: Apache-2.0
"""Means with percentile intervals of the bootstrap, and paired differences, over the items of a test set."""
import random


def mean(values):
    return sum(values) / len(values)


def interval(values, resamples=1000, seed=0, share=0.95):
    """Low and high end of the percentile interval of the mean: items are drawn with replacement."""
    draw = random.Random(seed)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - share) / 2
    return means[int(tail * resamples)], means[min(resamples - 1, int((1 - tail) * resamples))]


def difference(first, second, **options):
    """Mean of first - second on the same items with its interval."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} items are no pairs")
    differences = [a - b for a, b in zip(first, second)]
    return mean(differences), *interval(differences, **options)


def spread(values):
    """Half of the distance between the smallest and the largest."""
    return (max(values) - min(values)) / 2


def lower_half(values):
    """Indices of the items with the lowest values, of ties the first ones."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    return sorted(order[: (len(values) + 1) // 2])
