"""Means and variances, and extremes, of activations: what is read from the arrays of a distribution.

mean, variance = view.gaussian("block_0")             # Moments: (neurons) each
mean, covariance = view.layer_gaussian("block_0")     # LayerMoments: (neurons) and (neurons, neurons)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean and variance of each neuron, (neurons) float64 each; the divisor of the variance is n - 1."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """Former name of `variance`."""
        return self.variance


class LayerMoments(NamedTuple):
    """Mean vector (neurons) and covariance matrix (neurons, neurons) of a layer, float64, with divisor n - 1."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """Former name of `covariance`."""
        return self.covariance


class Extremes(NamedTuple):
    """Smallest and largest activation of each neuron, (neurons) float32 each."""

    minimum: np.ndarray
    maximum: np.ndarray


def neuron_moments(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> Moments:
    """Moments from the arrays of `gaussian`, (neurons) each: number of images, mean, and centred sum of squares.

    The mean of no image is NaN; the variance of fewer than two images is 0.
    """
    variance = m2 / np.maximum(count.astype(np.int64) - 1, 1)
    return Moments(np.where(count > 0, mean, np.nan), variance)


def layer_moments(count: np.ndarray, mean: np.ndarray, comoment: np.ndarray) -> LayerMoments:
    """Moments from a layer's rows of the arrays of `layer-gaussian`: number of images (neurons), mean (neurons) and
    co-moments (neurons, neurons), which may be padded on the right.

    The mean of no image is NaN; the covariance of fewer than two images is 0.
    """
    covariance = comoment[:, : len(mean)] / max(int(count[0]) - 1, 1)
    covariance = (covariance + covariance.T) / 2  # a matrix product may differ in the last bit
    return LayerMoments(np.where(count > 0, mean, np.nan), covariance)
