"""Surrogates of a search: quality with its uncertainty, and costs, from encoded architectures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

_KNOTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of log cost at which the trend may bend
_REACHES = (0.2, 0.6, 2.0)  # squared length scales, as shares of the number of parameters
_NOISES = (1e-3, 0.03, 0.3, 0.9)  # variances of the noise of scores, as shares of what the trend leaves
_COST_WEIGHT = 1.0  # squared distance between the cheapest and the most expensive, in parameters


class CostTrend:
    """Quality as a smooth function of log costs that never falls: rising curves, by non-negative least squares.

    Args:
        costs: log costs [N, K].
        quality: [N]; higher is better.
        weights: of the observations [N].
    """

    def __init__(self, costs: Array, quality: Array, weights: Array) -> None:
        self._low = costs.min(axis=0, initial=np.inf)
        self._span = np.maximum(costs.max(axis=0, initial=-np.inf) - self._low, 1e-9)
        scaled = (costs - self._low) / self._span
        self._knots = np.quantile(scaled, _KNOTS, axis=0) if len(costs) else np.zeros((0, costs.shape[1]))
        basis = self._basis(costs)
        # A constant may have either sign; a little ridge keeps few observations from bending the curve.
        columns = np.column_stack([np.ones(len(costs)), -np.ones(len(costs)), basis])
        root = np.sqrt(weights)
        ridge = np.eye(columns.shape[1])[2:] * np.sqrt(0.05)
        self._offset = float(np.average(quality, weights=weights))
        target = np.concatenate([root * (quality - self._offset), np.zeros(len(ridge))])
        scale = float(np.std(quality)) or 1.0
        solved, _ = nnls(np.vstack([root[:, None] * columns, ridge]), target / scale)
        self._coefficients = np.concatenate([[solved[0] - solved[1]], solved[2:]]) * scale

    def __call__(self, costs: Array) -> Array:
        """Return the trend at log costs [N, K]; beyond those observed it continues as a constant."""
        columns = np.column_stack([np.ones(len(costs)), self._basis(costs)])
        return np.asarray(self._offset + columns @ self._coefficients)

    def _basis(self, costs: Array) -> Array:
        scaled = np.clip((costs - self._low) / self._span, 0.0, 1.0)
        curves = [scaled, *(np.tanh((scaled - knot) / 0.25) for knot in self._knots)]
        return np.hstack(curves) if len(curves) else np.zeros((len(costs), 0))


class QualitySurrogate:
    """A trend over log costs, and a Gaussian process over encoding and log costs for what it leaves.

    Length scale and noise are the most likely of a grid.

    Args:
        rows: encoded architectures [N, D], in which one parameter has a squared distance of at most 1.
        costs: log costs [N, K].
        quality: observed [N]; higher is better.
        variance: of the noise of each observation, beside what they have in common [N].
        parameters: number of parameters.
    """

    def __init__(self, rows: Array, costs: Array, quality: Array, variance: Array, parameters: int) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        spread = float(np.std(quality)) or 1.0
        self._trend = CostTrend(costs, quality, 1 / (1 + variance / spread**2))
        residual = quality - self._trend(costs)
        self._scale = max(float(np.sqrt(np.mean(residual**2))), 1e-3 * spread)
        self._low = costs.min(axis=0)
        self._span = np.maximum(costs.max(axis=0) - self._low, 1e-9)
        alpha = np.maximum(variance / self._scale**2, 1e-8)
        inputs, target = self._inputs(rows, costs), residual / self._scale
        self._observed = inputs, target, alpha
        best = -np.inf
        for reach in _REACHES:
            for noise in _NOISES:
                shape = RBF(np.sqrt(reach * parameters), "fixed")
                kernel = ConstantKernel(1 - noise, "fixed") * shape + WhiteKernel(noise, "fixed")
                process = GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None).fit(inputs, target)
                if process.log_marginal_likelihood_value_ > best:
                    best, self._process = process.log_marginal_likelihood_value_, process
                    self.noise = noise

    def believe(self, rows: Array, costs: Array) -> Array:
        """Take its own prediction for candidates without a score as their quality, and return it [N].

        What is under way is then neither proposed again nor close by (Kriging believer: Ginsbourger et al., 2010).
        """
        from sklearn.gaussian_process import GaussianProcessRegressor

        mean, _ = self.predict(rows, costs)
        inputs, target, alpha = self._observed
        believed = (mean - self._trend(costs)) / self._scale
        self._observed = (
            np.vstack([inputs, self._inputs(rows, costs)]),
            np.concatenate([target, believed]),
            np.concatenate([alpha, np.full(len(rows), 1e-8)]),
        )
        inputs, target, alpha = self._observed
        self._process = GaussianProcessRegressor(self._process.kernel_, alpha=alpha, optimizer=None).fit(inputs, target)
        return mean

    def predict(self, rows: Array, costs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the quality itself, without noise, each [N]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variances that rounding makes negative, which count as 0
            mean, spread = self._process.predict(self._inputs(rows, costs), return_std=True)
        spread = np.sqrt(np.maximum(spread**2 - self.noise, 1e-9))
        return self._trend(costs) + self._scale * mean, self._scale * spread

    def _inputs(self, rows: Array, costs: Array) -> Array:
        return np.hstack([rows, np.sqrt(_COST_WEIGHT) * (costs - self._low) / self._span])


class CostSurrogate:
    """Log costs from encoded architectures, to choose which to count: linear, and a Gaussian process for the rest.

    Args:
        rows: encoded architectures [N, D].
        costs: their log costs [N, K].
        parameters: number of parameters.
    """

    def __init__(self, rows: Array, costs: Array, parameters: int) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

        kernel: Any = (
            DotProduct(1.0, "fixed")
            + ConstantKernel(0.3, "fixed") * RBF(np.sqrt(parameters), "fixed")
            + WhiteKernel(1e-3, "fixed")
        )
        self._mean = costs.mean(axis=0)
        self._scale = np.maximum(costs.std(axis=0), 1e-9)
        self._process = GaussianProcessRegressor(kernel, optimizer=None)
        self._process.fit(rows, (costs - self._mean) / self._scale)

    def predict(self, rows: Array) -> Array:
        """Return log costs [N, K]."""
        found = self._process.predict(rows).reshape(len(rows), -1)
        return np.asarray(found * self._scale + self._mean)
