import itertools

import pytest
import torch
from torch import nn

from nas_distill.config import TermConfig
from nas_distill.distill.losses import Loss, loss
from nas_distill.distill.objective import Term, find_terms
from nas_distill.distill.pairing import pair_layers, teacher_features
from nas_distill.utils.errors import TrainingError

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """Classifies sequences of 5 vectors of 6 numbers."""

    def __init__(self, layers=2, width=8, heads=2):
        super().__init__()
        self.embed = nn.Linear(6, width)
        layer = nn.TransformerEncoderLayer(width, heads, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


def term(name, layers="auto"):
    (found,) = find_terms([TermConfig(name=name, layers=layers)])
    return found


def stages():
    """A term that reads all stages."""

    @loss(layers="stages")
    class Stages(Loss):
        pass

    return Term(TermConfig(name="stages"), Stages._nas_distill_loss, {})


BLOCKS = [(f"encoder.layers.{one}", f"encoder.layers.{other}") for one, other in [(0, 1), (1, 3)]]
ATTENTIONS = [(f"{one}.self_attn:qkv", f"{other}.self_attn:qkv") for one, other in BLOCKS]
EXPECTED = {
    "tokens": (lambda: term("tinybert_hidden"), BLOCKS),
    "attention": (lambda: term("tinybert_attention"), ATTENTIONS),
    "last attention": (lambda: term("minilm"), ATTENTIONS[-1:]),
    "last": (lambda: term("cosine_hidden"), BLOCKS[-1:]),
    "stages": (stages, BLOCKS),
    "named": (lambda: term("tinybert_hidden", (("embed", "embed"),)), [("embed", "embed")]),
    "named attention": (lambda: term("minilm", (ATTENTIONS[0],)), ATTENTIONS[:1]),
    "named last": (
        lambda: term("minilm_v1", (("encoder.layers.1.self_attn:qkv", "encoder.layers.2.self_attn:qkv"),)),
        [("encoder.layers.1.self_attn:qkv", "encoder.layers.2.self_attn:qkv")],
    ),
    "named block": (lambda: term("tinybert_hidden", (BLOCKS[0],)), BLOCKS[:1]),
    "logits": (lambda: term("kd"), []),
}


@pytest.mark.parametrize("order", list(itertools.permutations(EXPECTED, 2)), ids="-".join)
def test_what_a_term_reads_does_not_depend_on_the_terms_beside_it(order):
    student, teacher = Encoder(2), Encoder(4, width=12, heads=3)
    terms = [EXPECTED[name][0]() for name in order]
    features = teacher_features(terms, teacher, X)
    for name, found in zip(order, terms):
        read = pair_layers(found, student, features, X)
        expected = EXPECTED[name][1]
        assert [(pair.student.name, pair.teacher.name) for pair in read.pairs] == expected
        assert read.teacher == tuple(f"{teacher}|full" for _, teacher in expected)
        if name == "attention":
            assert read.shapes == (((3, 2, 5, 4), (3, 3, 5, 4)),) * 2
        if name == "tokens":
            assert read.shapes == (((5, 8), (5, 12)),) * 2


@pytest.mark.parametrize(
    ("name", "pair", "sentence"),
    [
        (
            "minilm",
            ("encoder.layers.0", "encoder.layers.0"),
            "cannot read layer 'encoder.layers.0'; name attentions as",
        ),
        ("minilm", ("a:qkv", "encoder.layer.0.self_attn:qkv"), "no layer 'encoder.layer.0.self_attn'; did you mean"),
        ("minilm", ("a:qkv", "embed:qkv"), "layer 'embed' is a Linear, and ':qkv' is for"),
        ("tinybert_hidden", ("a", "embedd"), "no layer 'embedd'; did you mean 'embed'?"),
    ],
)
def test_a_name_that_cannot_be_read_is_told(name, pair, sentence):
    with pytest.raises(TrainingError) as error:
        teacher_features([term(name, (pair,))], Encoder(), X)
    assert sentence in str(error.value)


def test_a_network_without_such_layers_is_told():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    for name in ("tinybert_hidden", "minilm", "cosine_hidden"):
        with pytest.raises(TrainingError, match=f"'{name}' needs .* none was found in the teacher"):
            teacher_features([term(name)], plain, X)
        features = teacher_features([term(name)], Encoder(), X)
        with pytest.raises(TrainingError, match=f"'{name}' needs .* none was found in the student"):
            pair_layers(term(name), plain, features, X)
