"""Tables of trained networks as search problems: a space, exact costs, and a quality, with nothing to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_distill.costs.budget import Budget
from nas_distill.engine.samplers.acquisition import undominated
from nas_distill.runs.pareto import hypervolume
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import BuildError

Array = NDArray[np.float64]

_FLOOR = 0.1  # quantile of the quality below which nothing counts
_LIMIT = 0.5  # quantile of the first cost that the limit is


@dataclass(frozen=True)
class Table:
    """A search problem whose answers are known.

    ``look_up`` returns quality (higher is better) and costs (lower is better) of an architecture. ``quality`` [N] and
    ``costs`` [N, K] are those of the whole table, or of a large sample and the best that is known.
    """

    name: str
    about: str
    space: SearchSpace
    look_up: Callable[[Architecture], tuple[float, dict[str, float]]]
    cost_names: tuple[str, ...]
    quality: Array
    costs: Array


@dataclass(frozen=True)
class Problem:
    """A table with or without a limit on its first cost, and with or without costs as objectives."""

    table: Table
    limited: bool
    front: bool

    @property
    def name(self) -> str:
        return f"{self.table.name}, {'front' if self.front else 'best'}{', limit' if self.limited else ''}"

    @cached_property
    def limit(self) -> float:
        """The limit on the first cost: the median of the table."""
        return float(np.quantile(self.table.costs[:, 0], _LIMIT))

    @property
    def budget(self) -> Budget:
        return Budget.parse({self.table.cost_names[0]: self.limit}) if self.limited else Budget()

    @cached_property
    def _reference(self) -> tuple[float, ...]:
        fits = self._fitting
        worst = np.log(self.table.costs[fits].max(axis=0))
        if self.limited:
            worst[0] = np.log(self.limit)
        return (float(np.quantile(self.table.quality[fits], _FLOOR)), *(float(each) + 1e-9 for each in worst))

    @cached_property
    def _fitting(self) -> NDArray[np.bool_]:
        return self.table.costs[:, 0] <= self.limit if self.limited else np.ones(len(self.table.quality), dtype=bool)

    @cached_property
    def whole(self) -> float:
        """The hypervolume of the whole table within the limit."""
        return self._volume(self.table.quality[self._fitting], self.table.costs[self._fitting])

    def covered(self, quality: Sequence[float], costs: Sequence[Sequence[float]]) -> float:
        """Return the hypervolume of candidates within the limit, as a share of the whole table's."""
        return self._volume(np.array(quality), np.array(costs)) / self.whole

    def _volume(self, quality: Array, costs: Array) -> float:
        if not self.front:
            return max(0.0, float(quality.max()) - self._reference[0])
        logs = np.log(costs)
        kept = undominated(quality, logs)
        points = np.column_stack([quality[kept], logs[kept]])
        return hypervolume(points, self._reference, [True] + [False] * logs.shape[1])


def macro(folder: Path) -> Table:
    """NAS-Bench-Macro: 6,561 networks of 8 blocks on CIFAR-10 (Su et al., ICCV 2021); every one of them trained."""
    found = np.load(folder / "nas_bench_macro" / "macro.npz")
    quality = found["test_acc"].mean(axis=1) / 100
    costs = np.column_stack([found["flops"], found["params"]]).astype(float)
    codes = (found["arch"].astype(int) * 3 ** np.arange(8)).sum(axis=1)
    place = {int(code): index for index, code in enumerate(codes)}
    kinds = ["identity", "mb3_k3", "mb6_k5"]
    space = SearchSpace.from_dict({f"block{index}": kinds for index in range(8)}, builder="builtins:dict")

    def look_up(architecture: Architecture) -> tuple[float, dict[str, float]]:
        values = architecture.values
        code = sum(kinds.index(str(values[f"block{index}"])) * 3**index for index in range(8))
        row = place[code]
        return float(quality[row]), {"flops": float(costs[row, 0]), "params": float(costs[row, 1])}

    return Table("macro", macro.__doc__ or "", space, look_up, ("flops",), quality, costs[:, :1])


def accel(folder: Path) -> Table:
    """Accel-NASBench: 7 stages as in MnasNet on ImageNet (Ahmad et al., 2024); 5,138 of 78 billion trained.

    Quality and multiply-adds of the others are those of models fitted to the trained ones.
    """
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    found = np.load(folder / "accel_nasbench" / "accel.npz", allow_pickle=False)
    rows = found["arch"].astype(int)
    names = [str(name) for name in found["dims"]]
    values = [sorted({int(value) for value in rows[:, column]}) for column in range(rows.shape[1])]
    space = SearchSpace.from_dict(dict(zip(names, values)), builder="builtins:dict")

    def stages(arch: NDArray[np.int_]) -> Array:
        # Multiply-adds are a sum over stages, whose outer widths are fixed.
        columns = []
        for first in range(0, rows.shape[1], 4):
            e, k, layers, se = (arch[:, first + part].astype(float) for part in range(4))
            for each in (np.ones_like(e), (e == 1).astype(float), e, e * k**2, se, se * e):
                columns += [each, each * layers]
        return np.column_stack(columns)

    macs = LinearRegression().fit(stages(rows), found["macs_m"])
    boosted = GradientBoostingRegressor(
        n_estimators=600, max_depth=4, learning_rate=0.05, subsample=0.5, random_state=0
    )
    inputs = np.hstack([rows, (stages(rows) @ macs.coef_)[:, None]])
    boosted.fit(inputs, found["val_top1"])
    known: dict[str, tuple[float, dict[str, float]]] = {}

    def predicted(arch: NDArray[np.int_]) -> tuple[Array, Array]:
        cost = stages(arch) @ macs.coef_
        both = np.hstack([arch, cost[:, None]])
        return boosted.predict(both) / 100, macs.predict(stages(arch)) * 1e6

    def look_up(architecture: Architecture) -> tuple[float, dict[str, float]]:
        if architecture.hash not in known:
            flat: dict[str, Any] = architecture.values
            quality, cost = predicted(np.array([[int(flat[name]) for name in names]]))
            known[architecture.hash] = float(quality[0]), {"flops": float(cost[0])}
        return known[architecture.hash]

    rng = np.random.default_rng(0)
    sample = np.column_stack([rng.choice(each, 20_000) for each in values])
    quality, cost = predicted(sample)
    return Table("accel", accel.__doc__ or "", space, look_up, ("flops",), quality, cost[:, None])


def graph(dataset: str) -> Table:
    """NAS-Bench-Graph: 26,206 graph networks of 4 operations (Qin et al., NeurIPS 2022); every one of them trained.

    Needs ``pip install --no-deps nas-bench-graph``. Several architectures of the space are the same network.
    """
    from nas_bench_graph import Arch, light_read  # type: ignore[import-not-found]
    from nas_bench_graph.architecture import gnn_list, link_list  # type: ignore[import-not-found]

    found: dict[int, dict[str, float]] = light_read(dataset)
    links = ["".join(map(str, link)) for link in link_list]
    space = SearchSpace.from_dict(
        {"link": links, **{f"op{index}": list(gnn_list) for index in range(4)}}, builder="builtins:dict"
    )

    def look_up(architecture: Architecture) -> tuple[float, dict[str, float]]:
        values: dict[str, Any] = architecture.values
        code = Arch([int(digit) for digit in values["link"]], [values[f"op{index}"] for index in range(4)]).valid_hash()
        if code not in found:
            raise BuildError("its network is not in the table.")
        return float(found[code]["valid_perf"]), {"params": float(found[code]["para"]) * 1e6}

    quality = np.array([float(row["valid_perf"]) for row in found.values()])
    costs = np.array([[float(row["para"]) * 1e6] for row in found.values()])
    return Table(f"graph-{dataset}", graph.__doc__ or "", space, look_up, ("params",), quality, costs)
