"""Search spaces, and architectures as their points."""

from nas_distill.spaces.architecture import Architecture, Scalar, Value
from nas_distill.spaces.catalog import load_space, names
from nas_distill.spaces.domains import Choice, Domain, IntRange
from nas_distill.spaces.networks import InitialWeights, NetworkBuilder
from nas_distill.spaces.space import SearchSpace
from nas_distill.spaces.summary import SpaceSize

__all__ = [
    "Architecture",
    "Choice",
    "Domain",
    "InitialWeights",
    "IntRange",
    "NetworkBuilder",
    "Scalar",
    "SearchSpace",
    "SpaceSize",
    "Value",
    "load_space",
    "names",
]
