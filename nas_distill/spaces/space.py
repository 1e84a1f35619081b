"""Search spaces: parameters with their domains, and the builder of their networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_distill.spaces import builders
from nas_distill.spaces import notation as specs
from nas_distill.spaces import summary as rows
from nas_distill.spaces import summary as size
from nas_distill.spaces import tree as walk
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
    """What may be chosen, and the builder that makes a network of it; read one with ``from_dict`` or ``load_space``.

    ``arguments`` are fixed keywords of the builder; ``paths`` are folders where a builder's module is looked for.
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
        # Taken here and carried along: a worker that gets a pickled function may not have its source.
        self._identity = builders.identity(builder)
        self._size: size.SpaceSize | None = None

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
        """Read a space.

        ``mapping`` has the keys of a space file (``builder``, ``parameters``, and if wanted ``name``, ``about``,
        ``arguments``), or is the parameters alone where ``builder`` is given apart. ``builder`` is a function, or its
        name as ``package.module:function``. ``source`` names the file in errors. Notation: see ``spaces/notation.py``.

        Raises:
            SpaceError: names source and parameter, and what is wrong.
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
            raise SpaceError(f"a space is a mapping with the keys {', '.join(_KEYS)}, not a {type(mapping).__name__}.")
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
                raise SpaceError(f"'{key}' must be a text, and is a {type(text).__name__}.")
        parameters = specs.parse(content["parameters"])
        for key in [*arguments, *(node.name for node in parameters)]:
            if key in builders.FROM_DATA:
                raise SpaceError(f"'{key}' comes from the data, so it can be neither a parameter nor an argument.")
        for node in parameters:
            if node.name in arguments:
                raise SpaceError(f"'{node.name}' is a parameter and an argument; it can be only one of them.")
        return cls(
            name or texts["name"] or builders.describe(builder).rpartition(":")[2],
            builder,
            parameters,
            arguments=arguments,
            about=texts["about"].strip(),
            paths=paths,
        )

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Return a random architecture: every active parameter uniform over its domain, independent of the others."""
        return self.draw(lambda _, domain: domain.at(int(rng.integers(len(domain)))))

    def draw(self, choose: Callable[[str, Domain], Any]) -> Architecture:
        """Return the architecture of what ``choose(flat_name, domain)`` answers.

        It is asked for every active parameter, by a name such as ``stages.0.blocks.1.kernel``, in the order of
        declaration; a name always comes with the same domain.

        Raises:
            SpaceError: an answer is outside its domain.
        """
        return Architecture(walk.draw(self.parameters, choose))

    def every(self) -> Iterator[Architecture]:
        """Yield every architecture once, later parameters changing first; see ``size`` for how many there are."""
        places: list[tuple[int, int]] = []  # of the choices made: (index of the value, how many values there are)
        while True:
            asked = iter(range(len(places)))

            def choose(_: str, domain: Domain, asked: Iterator[int] = asked) -> Scalar:
                step = next(asked, None)
                if step is None:
                    places.append((0, len(domain)))
                    return domain.at(0)
                return domain.at(places[step][0])

            yield self.draw(choose)
            while places and places[-1][0] + 1 == places[-1][1]:
                places.pop()
            if not places:
                return
            places[-1] = (places[-1][0] + 1, places[-1][1])

    def smallest(self) -> Architecture:
        """Return the architecture of every low end: a choice's first value, a range's lowest, so the shortest lists.

        Smallest by its parameters: it is the cheapest as far as choices are written from cheap to dear.
        """
        return self.draw(lambda _, domain: domain.at(0))

    def largest(self) -> Architecture:
        """Return the architecture of every high end; see ``smallest``."""
        return self.draw(lambda _, domain: domain.at(len(domain) - 1))

    def spread(self, count: int, rng: np.random.Generator) -> list[Architecture]:
        """Return ``count`` distinct architectures from small to large: every ordered domain at evenly spaced fractions.

        Each parameter strays from its fraction at random; domains without order are drawn uniformly. Fewer come back
        where the space holds fewer, or where so few are left that chance does not find them.
        """
        found: dict[Architecture, None] = {}
        for index in range(max(0, min(count, self.size().count))):
            fraction = (index + 0.5) / count
            for attempt in range(100):
                # It strays further with each attempt, so that narrow spaces still give distinct ones.
                reach = max(0.5 / count, 0.15) * (1 + attempt / 10)
                drawn = self.draw(partial(value_near, fraction=fraction, reach=reach, rng=rng))
                if drawn not in found:
                    found[drawn] = None
                    break
        return list(found)

    def validate(self, values: Mapping[str, Any] | Architecture) -> Architecture:
        """Return the architecture of ``values``, each as its domain writes it (8.0 becomes 8 where 8 is asked for).

        Raises:
            SpaceError: a parameter is missing, unknown, inactive, of a wrong type or length, or outside its domain; the
                message has its path and the values allowed.
        """
        given = values.to_dict() if isinstance(values, Architecture) else values
        return Architecture(walk.check(self.parameters, given))

    def flatten(self, architecture: Architecture) -> dict[str, Scalar]:
        """Return the values by flat name, in the order of declaration, e.g. ``{"stages.0.blocks.1.kernel": 3}``.

        Raises:
            SpaceError: the architecture is not of this space.
        """
        nested = walk.flat(self.validate(architecture).to_dict())
        ordered: dict[str, Scalar] = {}

        def note(name: str, _: Domain) -> Value:
            ordered[name] = nested[name]  # type: ignore[assignment]
            return nested[name]

        self.draw(note)
        return ordered

    def unflatten(self, flat: Mapping[str, Any]) -> Architecture:
        """Return the architecture whose ``flatten`` is ``flat``.

        Raises:
            SpaceError: an active parameter is missing, another is given, or a value is outside its domain.
        """
        asked: list[str] = []

        def look_up(name: str, domain: Domain) -> Any:
            asked.append(name)
            if name not in flat:
                raise SpaceError(f"parameter '{name}' is missing; allowed: {domain}.")
            return flat[name]

        architecture = self.draw(look_up)
        for name in flat:
            if name not in asked:
                raise SpaceError(f"parameter '{name}' is unknown, or does not apply here{did_you_mean(name, asked)}")
        result: Architecture = architecture
        return result

    def size(self) -> size.SpaceSize:
        """Return how many distinct architectures there are."""
        if self._size is None:
            self._size = size.measure(self.parameters)
        return self._size

    def builder_function(self) -> Callable[..., Any]:
        """Return the builder itself.

        Raises:
            ConfigError: its module does not import, or has no such name.
            BuildError: what has the name cannot be called.
        """
        if not isinstance(self.builder, str):
            remember_builder(builders.describe(self.builder), self.builder)
            return self.builder
        found = load_reference(self.builder, what=f"the builder of space '{self.name}'", paths=self.paths)
        if not callable(found):
            raise BuildError(f"the builder of space '{self.name}', {self.builder}, is no function.")
        remember_builder(self.builder, found)
        builds: Callable[..., Any] = found
        return builds

    def build(self, architecture: Architecture, *, input_shape: Sequence[int], num_classes: int) -> nn.Module:
        """Build the network of an architecture for (C, H, W) images and ``num_classes`` logits.

        Initial weights come from torch's global generator, which the caller seeds.

        Raises:
            ConfigError: the builder cannot be imported.
            BuildError: it raised, or returned no module.
        """
        return builders.call(
            self.builder_function(),
            builders.describe(self.builder),
            architecture,
            self.arguments,
            input_shape=input_shape,
            num_classes=num_classes,
        )

    def describe(self) -> list[rows.Row]:
        """Return one row a parameter: name, kind, values, and when it is active."""
        return rows.describe(self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` reads; a builder that is a function is given by its name."""
        return {
            "name": self.name,
            "about": self.about,
            "builder": builders.describe(self.builder),
            "arguments": copy.deepcopy(self.arguments),
            "parameters": specs.dump(self.parameters),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of builder, arguments and parameters with their order.

        A builder given as a function counts with its source. Name and description do not count.
        """
        # Not canonical JSON, since the order of parameters counts.
        return text_digest(builders.plain_json([self._identity, self.arguments, specs.dump(self.parameters)]))

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {self.size()})"
