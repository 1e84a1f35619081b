import numpy as np
import pytest
import torch

from nas_distill.config import TermConfig, TrainingConfig
from nas_distill.distill.losses import Batch, Loss, Outputs, Shapes, loss_names
from nas_distill.distill.losses.kd import divergence
from nas_distill.distill.objective import Objective, find_terms, labels_only
from nas_distill.utils.errors import ConfigError

SHAPES = Shapes(classes=5, samples=20, steps=10)


def config(name, **keys):
    return TermConfig.model_validate({"name": name, **keys})


def value(configs, student, teacher, labels, done=0.0, *, alone=False):
    terms = find_terms(configs)
    terms = labels_only(terms) if alone else terms
    objective = Objective(terms, [SHAPES] * len(terms))
    answer = None if teacher is None else Outputs(teacher)
    batch = Batch(labels, torch.arange(len(labels)), done)
    return float(objective([(Outputs(student), answer)] * len(terms), batch))


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, generator=generator)
    return student, teacher, torch.tensor([0, 4, 2, 2])


@pytest.mark.parametrize(("soft", "hard"), [(0.9, 0.1), (1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_sum_is_weighted(tensors, soft, hard, smoothing):
    student, teacher, labels = tensors
    terms = [
        config("kd", weight=soft, temperature=3.0),
        config("cross_entropy", weight=hard, label_smoothing=smoothing),
    ]
    log_q = np.log(student.double().softmax(1).numpy())
    targets = np.full((4, 5), smoothing / 5)
    targets[np.arange(4), labels] += 1 - smoothing
    cross_entropy = -(targets * log_q).sum() / 4
    expected = soft * float(divergence(student, teacher, 3.0)) + hard * cross_entropy
    assert value(terms, student, teacher, labels) == pytest.approx(expected, rel=1e-5)
    if hard:
        # Without a teacher the labels weigh 1, whatever they weigh beside one.
        assert value(terms, student, None, labels, alone=True) == pytest.approx(cross_entropy, rel=1e-5)


def test_the_default_is_distillation_beside_the_labels(tensors):
    student, teacher, labels = tensors
    expected = 0.9 * float(divergence(student, teacher, 4.0))
    expected += 0.1 * float(torch.nn.functional.cross_entropy(student, labels))
    assert value(TrainingConfig().loss, student, teacher, labels) == pytest.approx(expected, rel=1e-6)


def test_a_term_counts_from_its_start_to_its_stop_and_rises_between(tensors):
    student, teacher, labels = tensors
    terms = [config("cross_entropy"), config("kd", weight=1.0, start=0.2, stop=0.8, warmup=0.4)]
    base = value(terms, student, teacher, labels, done=0.0)
    full = float(divergence(student, teacher, 4.0))
    for done, share in [(0.1, 0), (0.2, 0), (0.4, 0.5), (0.6, 1), (0.79, 1), (0.8, 0), (0.99, 0)]:
        assert value(terms, student, teacher, labels, done) - base == pytest.approx(share * full, abs=1e-5)


def test_a_weight_that_is_not_given_is_that_of_the_paper():
    (term,) = find_terms([config("lskd")])
    assert term.weight == 9.0
    assert term.options == {"temperature": 2.0}


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ([config("kdd")], "score.loss.0: there is no loss 'kdd'; did you mean 'kd'?"),
        ([config("kd", temprature=2.0)], "unknown key 'temprature'; did you mean 'temperature'?"),
        ([config("kd", temperature=0)], "'temperature'"),
        ([config("kd", weight=0.0)], "'score.loss': every weight is 0"),
        ([config("kd", layers=(("a", "b"),))], "does not compare layers"),
        ([config("json:dumps"), config("json:JSONDecoder")], "neither a function nor a subclass"),
        ([config("json:no_such")], "no 'no_such'"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(terms, sentence):
    with pytest.raises(ConfigError) as error:
        find_terms(terms, where="score.loss")
    assert sentence in str(error.value)


def test_a_users_own_loss_is_named_by_its_place(tmp_path, tensors):
    (tmp_path / "own_loss.py").write_text(
        "from nas_distill.distill.losses import Loss\n"
        "import torch\n"
        "def squared(student, teacher, batch, *, scale: float = 2.0):\n"
        "    return scale * (student.logits - teacher.logits).square().mean()\n"
        "class Learnt(Loss):\n"
        "    def __init__(self, shapes, *, start: float = 1.0):\n"
        "        super().__init__(shapes)\n"
        "        self.factor = torch.nn.Parameter(torch.full((shapes.classes,), start))\n"
        "    def forward(self, student, teacher, batch):\n"
        "        return (self.factor * student.logits - teacher.logits).square().mean()\n"
    )
    student, teacher, labels = tensors
    terms = find_terms([config("own_loss:squared", scale=3.0), config("own_loss:Learnt")], paths=[tmp_path])
    objective = Objective(terms, [SHAPES, SHAPES])
    total = objective([(Outputs(student), Outputs(teacher))] * 2, Batch(labels, labels, 0.0))
    assert float(total.detach()) == pytest.approx(4 * float((student - teacher).square().mean()), rel=1e-5)
    assert [tuple(weight.shape) for weight in objective.parameters()] == [(5,)]


def test_every_loss_says_what_it_is():
    for name in loss_names():
        (term,) = find_terms([config(name, weight=1.0)])
        assert len(term.spec.about) > 20, name
        if isinstance(term.spec.make, type):
            assert issubclass(term.spec.make, Loss)
