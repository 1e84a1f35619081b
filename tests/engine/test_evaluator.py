import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.config import TrainingConfig
from nas_distill.data import Dataset, Views
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.work import Work, epoch_rungs
from nas_distill.evaluate.classification import accuracy
from nas_distill.export.provenance import read_provenance
from nas_distill.export.student import load_student
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.teacher import LiveSignal, TeacherStore, freeze
from nas_distill.utils.errors import BuildError, TeacherError, TrainingError

torch.set_num_threads(1)


def build(*, width, num_classes, broken=False, explode=False):
    if broken:
        raise ValueError("no network")
    layers = [nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2)]
    layers.append(nn.Linear(width, num_classes))
    return Explodes(*layers) if explode else nn.Sequential(*layers)


class Explodes(nn.Sequential):
    """Trains well, and tells nonsense when it is asked."""

    def forward(self, x):
        logits = super().forward(x)
        # Not for the two samples that a student is tried on.
        return logits if self.training or len(x) <= 2 else logits * math.nan


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(56) % 3
    x = (rng.integers(0, 60, (56, 1, 4, 4)) + 60 * y[:, None, None, None]).astype(np.uint8)
    val, test = (x[:16], y[:16]), (x[:4], y[:4])
    views = Views(count=2, pad=1)
    return Dataset.from_tensors(x[16:], y[16:], val=val, test=test, views=views, classes=["a", "b", "c"], name="toy")


@pytest.fixture
def space():
    parameters = {"width": [4, 8], "broken": [False, True], "explode": [False, True]}
    return SearchSpace.from_dict(parameters, builder=build)


@pytest.fixture
def teacher(data):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return freeze(build(width=16, num_classes=3), data)


@pytest.fixture
def evaluator(data, space, teacher):
    return StudentEvaluator(data, NetworkBuilder.of(space, data), LiveSignal(teacher), device="cpu")


@pytest.fixture
def make_work(tmp_path):
    def make(key="t0", *, epochs=4, rungs=(0.25, 0.5, 1.0), **options):
        values = {"width": 4, "broken": False, "explode": False, **options.pop("values", {})}
        return Work(
            key=key,
            architecture=Architecture(values),
            training=TrainingConfig(epochs=epochs, batch_size=8, optimizer={"lr": 0.05}),
            rungs=rungs,
            seed=options.pop("seed", 3),
            checkpoint=tmp_path / "checkpoints" / key,
            **options,
        )

    return make


def results(evaluator, work):
    run = evaluator.start(work)
    found = [run.next_rung()]
    while found[-1].rung < len(work.rungs) - 1:
        found.append(run.next_rung())
    run.close()
    return found


def scores(found):
    return [(result.rung, result.step, result.quality) for result in found]


def test_a_work_is_trained_rung_by_rung(evaluator, make_work):
    found = results(evaluator, make_work())
    assert [(result.rung, result.step) for result in found] == [(0, 5), (1, 10), (2, 20)]
    assert all(0 <= result.quality <= 1 for result in found)
    seconds = [result.seconds for result in found]
    assert 0 < seconds[0] < seconds[1] < seconds[2]


@pytest.mark.parametrize(
    ("epochs", "steps"), [(2, [5, 10]), (2.4, [5, 10, 12]), (2.6, [5, 10, 13]), (0.4, [2]), (1.0, [5])]
)
def test_an_epoch_is_every_sample_once_and_the_last_one_what_is_left(evaluator, make_work, tmp_path, epochs, steps):
    work = make_work(epochs=epochs, rungs=epoch_rungs(epochs))
    assert [result.step for result in results(evaluator, work)] == steps
    distiller = evaluator.start(replace(work, key="other", checkpoint=tmp_path / "other"))._distiller
    assert distiller.total_epochs == len(work.rungs)
    assert [distiller.step for _ in distiller.by_epoch(tmp_path / "loop")] == steps


def test_a_score_depends_on_neither_the_worker_nor_on_what_ran_before(evaluator, make_work):
    first = scores(results(evaluator, make_work("t0")))
    torch.manual_seed(77)
    other = pickle.loads(pickle.dumps(evaluator))
    results(other, make_work("t1", values={"width": 8}, seed=5))
    assert scores(results(other, make_work("t2"))) == first
    state = torch.get_rng_state()
    results(other, make_work("t3"))
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_architecture_decide(evaluator, make_work, data):
    def logits(work):
        run = evaluator.start(work)
        run.next_rung()
        return run._distiller.validation_logits()

    base = logits(make_work("t0"))
    assert torch.equal(logits(make_work("t1")), base)
    assert not torch.equal(logits(make_work("t2", seed=4)), base)
    assert not torch.equal(logits(make_work("t3", values={"width": 8})), base)
    assert not torch.equal(logits(make_work("t4", teacher=False)), base)


def test_the_store_scores_as_the_live_teacher(tmp_path, evaluator, make_work, data, teacher):
    stored = replace(evaluator, signal=TeacherStore.build(tmp_path, teacher, data))
    again = pickle.loads(pickle.dumps(stored))
    live, from_store = results(evaluator, make_work("t0")), results(again, make_work("t1"))
    assert abs(live[-1].quality - from_store[-1].quality) <= 2 / 16  # a sample or two may fall the other way


@pytest.mark.parametrize("reported", [0, 1, 2])
def test_a_work_whose_worker_died_continues_where_it_was(evaluator, make_work, reported):
    straight = scores(results(evaluator, make_work("straight")))
    run = evaluator.start(make_work("killed"))
    for _ in range(reported):
        run.next_rung()
    # Its worker is gone here: nothing is closed.
    resumed = scores(results(evaluator, make_work("killed")))
    assert resumed == straight[max(0, reported - 1) :]  # the last rung may not have been told, so it is told again


def test_rungs_that_end_at_one_step_are_all_reported(evaluator, make_work):
    options = {"epochs": 0.4, "rungs": (0.1, 0.3, 0.5, 1.0)}  # two steps in all
    straight = results(evaluator, make_work("straight", **options))
    assert [(result.rung, result.step) for result in straight] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    run = evaluator.start(make_work("killed", **options))
    run.next_rung()
    assert scores(results(evaluator, make_work("killed", **options))) == scores(straight)
    run = evaluator.start(make_work("killed", **options))
    assert run.next_rung().rung == 3


def test_the_finished_student_is_written(tmp_path, evaluator, make_work, data):
    work = make_work(output=tmp_path / "students" / "t0")
    run = evaluator.start(work)
    run.next_rung()
    assert not work.output.exists()
    run.next_rung()
    last = run.next_rung()
    student = load_student(work.output, builder=build)
    assert not student.training
    x, y = data.batch("val", torch.arange(16))
    assert accuracy(student(x), y) == last.quality
    description = json.loads((work.output / "architecture.json").read_text())
    assert description["class_names"] == ["a", "b", "c"]
    assert description["metadata"] == {"epochs": 4.0, "seconds": last.seconds, "seed": 3}
    provenance = read_provenance(description, work.output / "architecture.json")
    assert (provenance.kind, provenance.key) == ("final", work.key)
    assert (provenance.data, provenance.data_name) == (data.fingerprint, data.name)
    assert (provenance.measure, provenance.quality, provenance.split) == ("accuracy", last.quality, "val")


def test_a_network_with_invalid_outputs_has_the_quality_nan_and_is_not_written(tmp_path, evaluator, make_work):
    work = make_work(values={"explode": True}, output=tmp_path / "students" / "t0")
    found = results(evaluator, work)
    assert [math.isnan(result.quality) for result in found] == [True] * 3
    assert not work.output.exists()


def test_a_builder_that_raises_fails_only_that_work(evaluator, make_work):
    with pytest.raises(BuildError, match="ValueError: no network"):
        evaluator.start(make_work("t0", values={"broken": True}))
    assert len(results(evaluator, make_work("t1"))) == 3


def test_a_loss_that_is_not_finite_fails_the_work(evaluator, make_work):
    work = make_work()
    hot = replace(work, training=TrainingConfig(epochs=4, batch_size=8, optimizer={"lr": 1e30, "clip": None}))
    with pytest.raises(TrainingError, match="loss became NaN or infinite"):
        results(evaluator, hot)


def test_a_checkpoint_of_something_else_is_not_gone_on_with(evaluator, make_work):
    run = evaluator.start(make_work(seed=1))
    run.next_rung()
    with pytest.raises(TrainingError, match="belongs to another training"):
        evaluator.start(make_work(seed=2))


def test_a_teacher_of_other_data_fails_before_anything_trains(tmp_path, evaluator, make_work, teacher, data):
    other = replace(evaluator, signal=TeacherStore.build(tmp_path, teacher, data.with_views(Views(count=1))))
    with pytest.raises(TeacherError, match="not for data"):
        other.start(make_work())
    results(other, make_work(teacher=False))  # labels need no teacher


class Ones:
    """Lets every student begin with weights of one."""

    def fill(self, student, architecture):
        with torch.no_grad():
            for weight in student.parameters():
                weight.fill_(1.0)


def test_students_begin_with_the_weights_they_are_given(evaluator, make_work):
    given = _first_weights(replace(evaluator, builder=replace(evaluator.builder, weights=Ones())), make_work("given"))
    assert all(bool((weight == 1).all()) for weight in given)
    assert not all(bool((weight == 1).all()) for weight in _first_weights(evaluator, make_work("own")))


def test_a_rung_at_0_judges_before_training_and_changes_nothing_after_it(evaluator, make_work):
    early = evaluator.start(replace(make_work("early"), rungs=(0.0, 0.5, 1.0)))
    untrained, *trained = [early.next_rung() for _ in range(3)]
    assert untrained.step == 0
    plain = evaluator.start(replace(make_work("plain"), rungs=(0.5, 1.0)))
    assert [(r.step, r.quality) for r in trained] == [
        (r.step, r.quality) for r in (plain.next_rung(), plain.next_rung())
    ]


def _first_weights(evaluator, work):
    run = evaluator.start(replace(work, key=f"{work.key}-first", checkpoint=work.checkpoint / "first"))
    return [weight.detach().clone() for weight in run._distiller.model.parameters()]
