"""What a model costs: counted exactly, timed on a runtime, predicted, and held against a budget."""

from nas_distill.cost.amounts import parse_amount
from nas_distill.cost.budget import Budget, Limit
from nas_distill.cost.count import COUNTED, count
from nas_distill.cost.latency import LatencyError, LatencyModel
from nas_distill.cost.model import CostModel
from nas_distill.cost.reference import fvcore_flops
from nas_distill.cost.registry import COSTS, CostInfo, cost_info, format_cost
from nas_distill.cost.runtime import Conditions, LatencySample, conditions, time_file, time_module, time_modules

__all__ = [
    "COSTS",
    "COUNTED",
    "Budget",
    "Conditions",
    "CostInfo",
    "CostModel",
    "LatencyError",
    "LatencyModel",
    "LatencySample",
    "Limit",
    "conditions",
    "cost_info",
    "count",
    "format_cost",
    "fvcore_flops",
    "parse_amount",
    "time_file",
    "time_module",
    "time_modules",
]
