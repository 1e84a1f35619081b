from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_distill.utils.validation import explain


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rate: float = 0.1
    kind: Literal["sgd", "adamw"] = "sgd"
    on: bool = False


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    count: int = Field(1, ge=1)
    inner: Inner = Inner()
    maybe: Inner | None = None
    steps: tuple[float, ...] = ()
    amount: float | Literal["auto"] = Field(1.0, description="a number, or auto")
    amounts: dict[str, float | dict[str, float]] = Field(default_factory=dict, description="a number or {min, max}")


CASES: list[tuple[dict[Any, Any], str]] = [
    ({}, "'name' is missing."),
    ({"nam": "x"}, "unknown key 'nam'; did you mean 'name'?"),
    ({"name": "x", "inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'rate'?"),
    ({"name": "x", "maybe": {"rat": 1}}, "unknown key 'maybe.rat'; did you mean 'rate'?"),
    ({"name": "x", "inner": {"zzz": 1}}, "unknown key 'inner.zzz'; known: kind, on, rate."),
    ({"name": 1}, "'name' must be text (given: 1)."),
    ({"name": "x", "count": "many"}, "'count' must be a whole number (given: 'many')."),
    ({"name": "x", "count": 0}, "'count' must be greater than or equal to 1 (given: 0)."),
    ({"name": "x", "inner": 3}, "'inner' must be a mapping of keys to values (given: 3)."),
    ({"name": "x", "inner": None}, "'inner' must be a mapping of keys to values (given: nothing)."),
    (
        {"name": "x", "inner": {"kind": "sdg"}},
        "'inner.kind' must be 'sgd' or 'adamw' (given: 'sdg'); did you mean 'sgd'?",
    ),
    ({"name": "x", "inner": {"kind": 5}}, "'inner.kind' must be 'sgd' or 'adamw' (given: 5)."),
    ({"name": "x", "inner": {"on": "perhaps"}}, "'inner.on' must be true or false (given: 'perhaps')."),
    ({"name": "x", "steps": 3}, "'steps' must be a list (given: 3)."),
    ({"name": "x", "steps": [1, "b"]}, "'steps.1' must be a number (given: 'b')."),
    ({"name": "x", "amount": "much"}, "'amount' must be a number, or auto (given: 'much')."),
    ({"name": "x", "amounts": {"a": "b"}}, "'amounts.a' must be a number or {min, max} (given: 'b')."),
    ({True: 1, "name": "x"}, "the key True is not text; write it in quotes, or choose another key."),
]


@pytest.mark.parametrize(("content", "sentence"), CASES, ids=[sentence for _, sentence in CASES])
def test_an_invalid_value_is_explained_in_one_sentence(content, sentence):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    assert explain(Outer, content, caught.value) == sentence


def test_an_unknown_key_is_reported_before_its_consequences():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"nane": "x", "count": 0})
    assert explain(Outer, {"nane": "x", "count": 0}, caught.value) == "unknown key 'nane'; did you mean 'name'?"
