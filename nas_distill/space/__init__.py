"""Search spaces: what may be chosen, and the architectures that come of it."""

from nas_distill.space.architecture import Architecture, Scalar, Value
from nas_distill.space.catalog import load_space, names
from nas_distill.space.networks import InitialWeights, NetworkBuilder
from nas_distill.space.parameters import Choice, Domain, IntRange
from nas_distill.space.size import SpaceSize
from nas_distill.space.space import SearchSpace

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
