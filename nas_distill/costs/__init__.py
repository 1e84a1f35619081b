"""Hardware costs of networks: counted, timed on a runtime, predicted, and compared with a budget."""

from nas_distill.costs.budget import Budget, Limit, parse_amount
from nas_distill.costs.counting import count
from nas_distill.costs.flops import fvcore_flops
from nas_distill.costs.latency import LatencyError, LatencyModel
from nas_distill.costs.model import Cost, CostModel
from nas_distill.costs.registry import CostInfo, cost, cost_info, cost_names, declare_cost, find_cost, format_cost
from nas_distill.costs.runtimes import Runtime, find_runtime, runtime_names
from nas_distill.costs.timing import Conditions, LatencySample, conditions, time_file, time_module, time_modules

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
