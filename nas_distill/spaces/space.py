"""Search spaces: parameters with their domains, and the builder of the networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_distill.spaces import builders, notation, summary, tree
from nas_distill.spaces.architecture import Architecture, Scalar, Value
from nas_distill.spaces.domains import Domain, value_near
from nas_distill.spaces.tree import Scope
from nas_distill.utils.checkpoints import text_digest
from nas_distill.utils.errors import BuildError, SpaceError, did_you_mean
from nas_distill.utils.references import is_reference, load_reference, remember_builder

if TYPE_CHECKING:
    from torch import nn


_KEYS = ("name", "about", "builder", "arguments", "parameters")


class SearchSpace:
    """A search space: a tree of parameters and the builder of its networks; create it by ``from_dict``, ``load_space``.

    ``arguments`` are fixed keywords of the builder; ``paths`` are folders in which a builder's module is searched.
    """

    def __init__(
        self,
        name: str,
        builder: str | Callable[..., Any],
        parameters: Scope,
        *,
        arguments: Mapping[str, Any] | None = None,
        about: str = "",
        paths: Sequence[str | Path] = (),
    ) -> None:
        self.name = name
        self.builder = builder
        self.parameters = parameters
        self.arguments: dict[str, Any] = copy.deepcopy(dict(arguments or {}))
        self.about = about
        self.paths = tuple(str(Path(path).resolve()) for path in paths)
        # Computed here and pickled: a worker that gets a pickled function may not have its source.
        self._identity = builders.identity(builder)
        self._size: summary.SpaceSize | None = None

    @classmethod
    def from_dict(
        cls,
        mapping: Mapping[str, Any],
        *,
        builder: str | Callable[..., Any] | None = None,
        name: str | None = None,
        paths: Sequence[str | Path] = (),
        source: str | None = None,
    ) -> SearchSpace:
        """Create a space from plain values.

        ``mapping`` has the keys of a space file (``builder``, ``parameters``, optionally ``name``, ``about``,
        ``arguments``), or only the parameters if ``builder`` is given separately. ``builder`` is a function, or its
        name as ``package.module:function``. ``source`` names the file in errors. ``spaces/notation.py`` defines the
        notation.

        Raises:
            SpaceError: the space is invalid; the message has source, parameter and cause.
        """
        given = name or (mapping.get("name") if isinstance(mapping, Mapping) else None)
        label = source or (f"space '{given}'" if isinstance(given, str) else "space")
        try:
            return cls._read(mapping, builder, name, paths)
        except SpaceError as error:
            raise SpaceError(f"{label}: {error}") from error

    @classmethod
    def _read(
        cls,
        mapping: Mapping[str, Any],
        builder: str | Callable[..., Any] | None,
        name: str | None,
        paths: Sequence[str | Path],
    ) -> SearchSpace:
        if not isinstance(mapping, Mapping):
            raise SpaceError(
                f"a space must be a mapping with the keys {', '.join(_KEYS)}, not a {type(mapping).__name__}."
            )
        content: Mapping[str, Any] = mapping
        if builder is not None and "parameters" not in mapping and "builder" not in mapping:
            content = {"parameters": mapping}
        for key in content:
            if key not in _KEYS:
                raise SpaceError(f"unknown key '{key}'{did_you_mean(str(key), _KEYS)}")
        builder = content.get("builder") if builder is None else builder
        if builder is None:
            raise SpaceError("the key 'builder' is missing; it names a function, as in package.module:function.")
        if isinstance(builder, str) and not is_reference(builder):
            raise SpaceError(f"the builder is '{builder}', which is not of the form package.module:function.")
        if not isinstance(builder, str) and not callable(builder):
            raise SpaceError(f"the builder is a {type(builder).__name__}; give a function, or package.module:function.")
        if "parameters" not in content:
            raise SpaceError("the key 'parameters' is missing; it maps the names of parameters to their values.")
        arguments = content.get("arguments") or {}
        if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
            raise SpaceError("'arguments' must map names to values.")
        texts = {key: content.get(key) or "" for key in ("name", "about")}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise SpaceError(f"'{key}' must be text, not a {type(text).__name__}.")
        parameters = notation.parse(content["parameters"])
        for key in [*arguments, *(node.name for node in parameters)]:
            if key in builders.FROM_DATA:
                raise SpaceError(f"'{key}' comes from the data, so it can be neither a parameter nor an argument.")
        for node in parameters:
            if node.name in arguments:
                raise SpaceError(f"'{node.name}' is both a parameter and an argument; give only one of them.")
        return cls(
            name or texts["name"] or builders.describe(builder).rpartition(":")[2],
            builder,
            parameters,
            arguments=arguments,
            about=texts["about"].strip(),
            paths=paths,
        )

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Return a random architecture: every active parameter is drawn uniformly and independently."""
        return self.draw(lambda _, domain: domain.at(int(rng.integers(len(domain)))))

    def draw(self, choose: Callable[[str, Domain], Any]) -> Architecture:
        """Return the architecture of the values that ``choose(flat_name, domain)`` returns.

        It is called for every active parameter, with a name such as ``stages.0.blocks.1.kernel``, in the order of
        declaration; the domain of a name is always the same.

        Raises:
            SpaceError: a value is outside its domain.
        """
        return Architecture(tree.draw(self.parameters, choose))

    def every(self) -> Iterator[Architecture]:
        """Yield every architecture once, with later parameters varying fastest; ``size`` gives their number."""
        counters: list[tuple[int, int]] = []  # of each choice: (index of the value, number of values)
        while True:
            steps = iter(range(len(counters)))

            def choose(_: str, domain: Domain, steps: Iterator[int] = steps) -> Scalar:
                step = next(steps, None)
                if step is None:
                    counters.append((0, len(domain)))
                    return domain.at(0)
                return domain.at(counters[step][0])

            yield self.draw(choose)
            while counters and counters[-1][0] + 1 == counters[-1][1]:
                counters.pop()
            if not counters:
                return
            counters[-1] = (counters[-1][0] + 1, counters[-1][1])

    def smallest(self) -> Architecture:
        """Return the architecture of the low ends: first values of choices, lowest of ranges, shortest lists.

        It is the cheapest architecture if the values of choices are in order of increasing cost.
        """
        return self.draw(lambda _, domain: domain.at(0))

    def largest(self) -> Architecture:
        """Return the architecture of the high ends; see ``smallest``."""
        return self.draw(lambda _, domain: domain.at(len(domain) - 1))

    def spread(self, count: int, rng: np.random.Generator) -> list[Architecture]:
        """Return ``count`` distinct architectures from small to large: every ordered domain at evenly spaced fractions.

        Parameters deviate from their fractions at random; domains without order are drawn uniformly. Fewer are returned
        if the space has fewer, or if random draws do not find the remaining ones.
        """
        found: dict[Architecture, None] = {}
        for index in range(max(0, min(count, self.size().count))):
            fraction = (index + 0.5) / count
            for attempt in range(100):
                # The deviation grows with each attempt, so that small spaces still give distinct architectures.
                reach = max(0.5 / count, 0.15) * (1 + attempt / 10)
                drawn = self.draw(partial(value_near, fraction=fraction, reach=reach, rng=rng))
                if drawn not in found:
                    found[drawn] = None
                    break
        return list(found)

    def validate(self, values: Mapping[str, Any] | Architecture) -> Architecture:
        """Return the architecture of ``values``, converted to the types of their domains (8.0 becomes 8).

        Raises:
            SpaceError: a parameter is missing, unknown, inactive, of a wrong type or length, or outside its domain; the
                message has its path and the allowed values.
        """
        given = values.to_dict() if isinstance(values, Architecture) else values
        return Architecture(tree.check(self.parameters, given))

    def flatten(self, architecture: Architecture) -> dict[str, Scalar]:
        """Return the values by flat name, in the order of declaration, e.g. ``{"stages.0.blocks.1.kernel": 3}``.

        Raises:
            SpaceError: the architecture does not belong to this space.
        """
        nested = tree.flat(self.validate(architecture).to_dict())
        ordered: dict[str, Scalar] = {}

        def choose(name: str, _: Domain) -> Value:
            ordered[name] = nested[name]  # type: ignore[assignment]
            return nested[name]

        self.draw(choose)
        return ordered

    def unflatten(self, flat: Mapping[str, Any]) -> Architecture:
        """Return the architecture whose ``flatten`` is ``flat``.

        Raises:
            SpaceError: an active parameter is missing, an inactive or unknown one is given, or a value is outside its
                domain.
        """
        asked: list[str] = []

        def choose(name: str, domain: Domain) -> Any:
            asked.append(name)
            if name not in flat:
                raise SpaceError(f"parameter '{name}' is missing; allowed: {domain}.")
            return flat[name]

        architecture = self.draw(choose)
        for name in flat:
            if name not in asked:
                raise SpaceError(f"parameter '{name}' is unknown, or does not apply here{did_you_mean(name, asked)}")
        result: Architecture = architecture
        return result

    def size(self) -> summary.SpaceSize:
        """Return the number of distinct architectures."""
        if self._size is None:
            self._size = summary.measure(self.parameters)
        return self._size

    def builder_function(self) -> Callable[..., Any]:
        """Return the builder as a function.

        Raises:
            ConfigError: its module cannot be imported, or has no such name.
            BuildError: the name is not callable.
        """
        if not isinstance(self.builder, str):
            remember_builder(builders.describe(self.builder), self.builder)
            return self.builder
        found = load_reference(self.builder, what=f"the builder of space '{self.name}'", paths=self.paths)
        if not callable(found):
            raise BuildError(f"the builder of space '{self.name}', {self.builder}, is not a function.")
        remember_builder(self.builder, found)
        builds: Callable[..., Any] = found
        return builds

    def build(self, architecture: Architecture, *, input_shape: Sequence[int], num_classes: int) -> nn.Module:
        """Build the network of an architecture for (C, H, W) images and ``num_classes`` logits.

        Initial weights come from torch's global generator, which the caller seeds.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: the builder raised, or did not return a module.
        """
        return builders.call(
            self.builder_function(),
            builders.describe(self.builder),
            architecture,
            self.arguments,
            input_shape=input_shape,
            num_classes=num_classes,
        )

    def describe(self) -> list[summary.Row]:
        """Return one row per parameter: name, kind, values and conditions."""
        return summary.describe(self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain values for ``from_dict``, with a builder function by name."""
        return {
            "name": self.name,
            "about": self.about,
            "builder": builders.describe(self.builder),
            "arguments": copy.deepcopy(self.arguments),
            "parameters": notation.dump(self.parameters),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of builder, arguments and parameters with their order.

        The source of a builder function is included; name and description are not.
        """
        # Not canonical JSON, since the order of parameters is significant.
        return text_digest(builders.plain_json([self._identity, self.arguments, notation.dump(self.parameters)]))

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {self.size()})"
