"""What a model costs: counted exactly, timed on a runtime, predicted, and held against a budget."""

from nas_distill.cost.amounts import parse_amount
from nas_distill.cost.budget import Budget, Limit
from nas_distill.cost.count import count
from nas_distill.cost.latency import LatencyError, LatencyModel
from nas_distill.cost.model import Cost, CostModel
from nas_distill.cost.reference import fvcore_flops
from nas_distill.cost.registry import CostInfo, cost, cost_info, cost_names, declare_cost, find_cost, format_cost
from nas_distill.cost.runtimes import Runtime, find_runtime, runtime_names
from nas_distill.cost.timing import Conditions, LatencySample, conditions, time_file, time_module, time_modules

__all__ = [
    "Budget",
    "Conditions",
    "Cost",
    "CostInfo",
    "CostModel",
    "LatencyError",
    "LatencyModel",
    "LatencySample",
    "Limit",
    "Runtime",
    "conditions",
    "cost",
    "cost_info",
    "cost_names",
    "count",
    "declare_cost",
    "find_cost",
    "find_runtime",
    "format_cost",
    "fvcore_flops",
    "parse_amount",
    "runtime_names",
    "time_file",
    "time_module",
    "time_modules",
]
