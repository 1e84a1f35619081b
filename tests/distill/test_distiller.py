import copy
import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nas_distill.config import TrainingConfig
from nas_distill.distill import Distiller
from nas_distill.distill.schedule import warmup_cosine
from nas_distill.evaluate.classification import accuracy
from nas_distill.teacher import LiveSignal, TeacherStore, freeze
from nas_distill.teacher.signal import Answer
from nas_distill.utils.errors import StorageError, TeacherError, TrainingError
from nas_distill.utils.seeds import derive, torch_generator


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# What it computes.


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_it_trains_as_a_plain_hand_written_loop_does(make_model, data, signal, make_distiller, taught, name):
    """Everything but the order of samples, the views and the seeds of dropout is written out here."""
    settings = {"name": name, "lr": 0.05, "momentum": 0.8, "weight_decay": 0.01, "clip": None}
    distiller = make_distiller(taught=taught, ema=0.0, warmup=0.25, epochs=3, optimizer=settings, seed=4)
    distiller.advance(10**6)

    model = make_model().to(memory_format=torch.channels_last).train()
    decayed = [model[0].weight, model[5].weight]
    free = [model[1].weight, model[1].bias, model[5].bias]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    if name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.8, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.05)
    step, total = 0, 3 * 6
    for epoch in range(3):
        order = torch.randperm(48, generator=torch_generator(4, "order", epoch))
        for start in range(0, 48, 8):
            index = order[start : start + 8]
            x, y = data.batch("train", index, epoch % 2)
            x = x.to(memory_format=torch.channels_last)
            with torch.no_grad():
                wanted = signal.teacher.module(x)
            torch.manual_seed(derive(4, "step", step))
            logits = model(x)
            loss = functional.cross_entropy(logits, y)
            if taught:
                soft = functional.kl_div(
                    (logits / 4).log_softmax(1), (wanted / 4).log_softmax(1), reduction="batchmean", log_target=True
                )
                loss = 0.9 * 16 * soft + 0.1 * loss
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * warmup_cosine((step + 0.5) / total, 0.25)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    assert distiller.step == distiller.total_steps == total
    for key, value in model.state_dict().items():
        torch.testing.assert_close(distiller.model.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert same(distiller.averaged.module, distiller.model)  # ema 0


def test_every_sample_is_seen_once_an_epoch_under_the_view_of_that_epoch(make_distiller, data):
    asked = []

    class Recorder:
        num_classes = 3
        features = ()

        def answer(self, split, index, view, x):
            expected, _ = data.batch(split, index, view)
            assert torch.equal(x, expected)
            asked.append((split, view, index.tolist()))
            return Answer(torch.zeros(len(index), 3))

        def identity(self):
            return "recorder"

        def check(self, data):
            pass

    distiller = make_distiller(epochs=3)
    distiller.signal = Recorder()
    distiller.advance(10**6)
    assert {split for split, _, _ in asked} == {"train"}
    assert [view for _, view, _ in asked] == [0] * 6 + [1] * 6 + [0] * 6
    epochs = [[place for _, _, index in asked[start : start + 6] for place in index] for start in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_it_learns(make_distiller, data):
    distiller = make_distiller(taught=False, epochs=12)
    before = distiller.quality()
    distiller.advance(distiller.total_steps)
    assert distiller.quality() > max(0.8, before)


def test_a_store_teaches_as_the_live_teacher_does(tmp_path, make_model, data, training, signal):
    store = TeacherStore.build(tmp_path, signal.teacher, data)
    trained = []
    for teacher in (signal, store):
        distiller = Distiller(make_model(), data, training, signal=teacher, seed=0)
        distiller.advance(distiller.total_steps)
        trained.append(distiller)
    for first, second in zip(*(distiller.model.state_dict().values() for distiller in trained)):
        torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)


def test_quality_is_the_averaged_weights_accuracy_on_validation_data(make_distiller, data):
    distiller = make_distiller(ema=0.9)
    distiller.advance(7)
    x, y = data.batch("val", torch.arange(30))
    logits = distiller.averaged.module(x)
    torch.testing.assert_close(distiller.validation_logits(), logits)
    assert distiller.quality() == accuracy(logits, y)
    assert not torch.allclose(distiller.model.eval()(x), logits, atol=1e-3)  # else this says nothing of averages


def test_looking_does_not_change_what_follows(make_distiller):
    straight, watched = make_distiller(), make_distiller()
    straight.advance(12)
    for step in (1, 2, 7, 12):
        watched.advance(step)
        watched.quality()
        watched.student()
    assert same(straight.model, watched.model)
    assert same(straight.averaged.module, watched.averaged.module)


def test_the_student_is_a_copy_on_the_cpu_in_the_plain_layout(make_distiller, data):
    distiller = make_distiller()
    distiller.advance(3)
    student = distiller.student()
    assert student[0].weight.is_contiguous()
    assert not any(part.training for part in student.modules())
    x, _ = data.batch("val", torch.arange(30))
    torch.testing.assert_close(student(x), distiller.validation_logits(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        student[0].weight.zero_()
    assert float(distiller.averaged.module[0].weight.abs().max()) > 0


# How far it goes.


def test_the_budget_in_steps(make_distiller):
    assert make_distiller(epochs=4).total_steps == 24
    assert make_distiller(epochs=0.5).total_steps == 3
    assert make_distiller(epochs=0.001).total_steps == 1
    assert make_distiller(epochs=2, batch_size=20).total_steps == 4  # a rest of 8 samples waits for its turn
    assert make_distiller(epochs=2, batch_size=1000).total_steps == 2


def test_advance_stops_at_the_end_and_never_goes_back(make_distiller):
    distiller = make_distiller(epochs=1)
    distiller.advance(4)
    assert distiller.step == 4
    before = copy.deepcopy(distiller.model)
    distiller.advance(2)
    assert distiller.step == 4
    assert same(distiller.model, before)
    distiller.advance(10**6)
    assert distiller.step == 6
    done = copy.deepcopy(distiller.model)
    seconds = distiller.seconds
    distiller.advance(10**6)
    assert same(distiller.model, done)
    assert distiller.seconds >= seconds > 0


def test_the_rate_warms_up_and_falls_within_the_budget(make_distiller):
    distiller = make_distiller(epochs=4, warmup=0.25, optimizer={"lr": 0.3})
    rates = []
    for step in range(1, distiller.total_steps + 1):
        distiller.advance(step)
        rates.append(distiller._optimizer.param_groups[0]["lr"])
    assert rates == [0.3 * warmup_cosine((step + 0.5) / 24, 0.25) for step in range(24)]
    assert rates.index(max(rates)) in (5, 6)


# Exact resume.


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("stops", [[12], [1, 3, 8, 9, 23], [6, 18]])
def test_stopping_and_going_on_elsewhere_is_bit_for_bit_going_on(tmp_path, make_distiller, make_model, name, stops):
    options = {"optimizer": {"name": name, "lr": 0.02}, "ema": 0.2}
    straight = make_distiller(**options)
    straight.advance(straight.total_steps)
    for index, stop in enumerate(stops):
        first = make_distiller(
            make_model(seed=index + 1), **options
        )  # its weights are the checkpoint's, or the start's
        if not first.load(tmp_path):
            first = make_distiller(**options)
        first.advance(stop)
        first.save(tmp_path)
    torch.manual_seed(1234)
    last = make_distiller(make_model(seed=99), **options)
    assert last.load(tmp_path)
    assert last.step == stops[-1]
    assert last.seconds > 0
    last.advance(last.total_steps)
    assert same(last.model, straight.model)
    assert same(last.averaged.module, straight.averaged.module)
    assert last.quality() == straight.quality()
    assert last.loss_sum == straight.loss_sum
    states = [distiller._optimizer.state_dict()["state"] for distiller in (straight, last)]
    assert states[0].keys() == states[1].keys()
    for place, values in states[0].items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][place][key])), (place, key)


def test_a_training_that_is_done_is_loaded_as_done(tmp_path, make_distiller):
    distiller = make_distiller()
    distiller.advance(distiller.total_steps)
    distiller.save(tmp_path)
    again = make_distiller()
    again.load(tmp_path)
    assert again.quality() == distiller.quality()
    again.advance(10**6)
    assert same(again.model, distiller.model)


def test_neither_the_global_generator_nor_what_ran_before_matters(make_distiller, make_model):
    torch.manual_seed(0)
    first = make_distiller()
    first.advance(first.total_steps)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    torch.rand(1000)
    make_distiller(make_model(seed=3), seed=9).advance(5)
    torch.set_rng_state(state)
    second = make_distiller()
    second.advance(second.total_steps)
    second.quality()
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first.model, second.model)


def test_seeds_make_a_difference(make_distiller):
    trained = [make_distiller(seed=seed) for seed in (0, 1)]
    for distiller in trained:
        distiller.advance(6)
    assert not same(trained[0].model, trained[1].model)


def test_nothing_to_go_on_with(tmp_path, make_distiller):
    distiller = make_distiller()
    before = copy.deepcopy(distiller.model)
    assert distiller.load(tmp_path / "nowhere") is False
    assert same(distiller.model, before)


@pytest.fixture
def checkpoint(tmp_path, make_distiller):
    distiller = make_distiller()
    distiller.advance(3)
    distiller.save(tmp_path)
    return tmp_path


OTHERS = [
    {"epochs": 5},
    {"batch_size": 4},
    {"ema": 0.5},
    {"warmup": 0.2},
    {"loss": [{"name": "kd", "temperature": 3.0}]},
    {"optimizer": {"lr": 0.2}},
    {"seed": 1},
    {"taught": False},
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_a_checkpoint_of_other_settings_is_refused(checkpoint, make_distiller, change):
    with pytest.raises(TrainingError, match=r"state\.pt .*another training.* delete it"):
        make_distiller(**change).load(checkpoint)


def test_a_checkpoint_of_other_data_teacher_views_or_network_is_refused(
    checkpoint, make_distiller, make_data, make_model, data, training
):
    teacher = LiveSignal(freeze(make_model(width=8, seed=6), data))
    others = [
        make_distiller(given=make_data(seed=1)),
        make_distiller(given=data.with_views(type(data.views)(count=3, pad=1, flip=True))),
        make_distiller(make_model(width=8)),
        Distiller(make_model(), data, training, signal=teacher, seed=0),
    ]
    for other in others:
        with pytest.raises(TrainingError, match="belongs to another training"):
            other.load(checkpoint)
    assert make_distiller().load(checkpoint)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_refused(tmp_path, make_distiller, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.pt is damaged .* delete it to train again") as caught:
        make_distiller().load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, [1], torch.zeros(2), {"step": 3}])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, make_distiller, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
        make_distiller().load(tmp_path)


def test_a_truncated_checkpoint_is_refused(checkpoint, make_distiller):
    path = checkpoint / "state.pt"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(TrainingError, match="is damaged"):
        make_distiller().load(checkpoint)


def test_a_checkpoint_with_code_in_it_does_not_run(tmp_path, make_distiller):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'was_run')!r}, 'w')",)

    torch.save({"identity": Payload()}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="is damaged"):
        make_distiller().load(tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_a_full_disk_keeps_the_checkpoint_before(checkpoint, make_distiller, monkeypatch):
    distiller = make_distiller()
    distiller.advance(7)
    write = Path.write_bytes

    def fail(path, content):
        write(path, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", fail)
        with pytest.raises(StorageError, match=r"state\.pt cannot be written \(No space left on device\)"):
            distiller.save(checkpoint)
    assert [path.name for path in checkpoint.iterdir()] == ["state.pt"]
    again = make_distiller()
    again.load(checkpoint)
    assert again.step == 3


# What goes wrong.


class Explodes(nn.Sequential):
    """Gives ``value`` from its third training batch on."""

    def __init__(self, *layers, value):
        super().__init__(*layers)
        self.value = value
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        logits = super().forward(x)
        return logits * self.value if self.calls >= 3 else logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("to_step", [5, 24])
def test_a_loss_that_is_not_finite_ends_the_training(make_model, make_distiller, value, to_step):
    distiller = make_distiller(Explodes(*make_model(), value=value))
    with pytest.raises(TrainingError, match=r"loss became NaN or infinite by step \d+ of 24"):
        distiller.advance(to_step)


def test_a_rate_that_is_far_too_high_ends_the_training(make_distiller):
    distiller = make_distiller(optimizer={"lr": 1e30, "clip": None}, epochs=8)
    with pytest.raises(TrainingError, match="a lower learning rate or gradient clipping may help"):
        distiller.advance(distiller.total_steps)


def test_the_quality_of_a_network_that_broke_in_its_last_step_is_nan(make_distiller):
    distiller = make_distiller(ema=0.0)
    with torch.no_grad():
        distiller.averaged.module[5].bias.fill_(math.nan)
    assert math.isnan(distiller.quality())


@pytest.mark.parametrize("clip", [1e-3, None])
def test_clipping_bounds_the_step(make_distiller, clip):
    settings = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip": clip}
    distiller = make_distiller(optimizer=settings, warmup=0.0)
    before = [weight.detach().clone() for weight in distiller.model.parameters()]
    distiller.advance(1)
    moved = math.sqrt(
        sum(float((weight.detach() - old).norm()) ** 2 for weight, old in zip(distiller.model.parameters(), before))
    )
    rate = warmup_cosine(0.5 / 24, 0.0)
    if clip is None:
        assert moved > 0.1
    else:
        assert moved == pytest.approx(clip * rate, rel=1e-2)


ODD_STUDENTS = [
    (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5)),
        r"returns \(2, 5\) for a batch of 2; with 3 classes it must",
    ),
    (lambda: nn.Linear(6, 3), r"returns \(2, 1, 6, 3\) for a batch of 2"),
    (lambda: nn.LSTM(6, 3), "fails on a batch of shape"),
    (lambda: nn.Linear(7, 3), r"fails on a batch of shape \(2, 1, 6, 6\) \(RuntimeError"),
    (lambda: nn.Flatten(), r"returns \(2, 36\) for a batch of 2"),
]


@pytest.mark.parametrize(("make", "message"), ODD_STUDENTS)
def test_a_student_that_does_not_fit_is_refused_before_anything_trains(make_distiller, make, message):
    with pytest.raises(TrainingError, match=f"^The student {message}") as caught:
        make_distiller(make())
    assert "\n" not in str(caught.value)


def test_a_student_without_weights(make_distiller):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3]

    with pytest.raises(TrainingError, match="no weights to train"):
        make_distiller(Fixed())


def test_a_teacher_of_other_classes_or_a_store_of_other_data_is_refused_before_anything_trains(
    tmp_path, make_model, make_data, data, training, signal
):
    with pytest.raises(TeacherError, match="has 3 classes, but data 'toy' has 4"):
        Distiller(make_model(classes=4), make_data(classes=4), training, signal=signal, seed=0)
    store = TeacherStore.build(tmp_path, signal.teacher, data)
    for other in (make_data(seed=1), make_data(count=36), data.with_views(type(data.views)(count=1))):
        with pytest.raises(TeacherError, match="not for data"):
            Distiller(make_model(), other, training, signal=store, seed=0)


def test_a_student_that_forgets_to_return_itself_trains(make_model, make_distiller):
    class Forgets(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

    distiller = make_distiller(Forgets(*make_model()))
    plain = make_distiller()
    for trained in (distiller, plain):
        trained.advance(8)
    assert same(distiller.model, plain.model)
    assert not any(part.training for part in distiller.student().modules())


def test_frozen_weights_stay(make_model, make_distiller):
    model = make_model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    distiller = make_distiller(model)
    distiller.advance(6)
    assert torch.equal(distiller.model[0].weight, before)
    assert torch.equal(distiller.student()[0].weight, before)


def test_weight_decay_is_for_matrices_alone(make_distiller):
    groups = make_distiller()._optimizer.param_groups
    assert [sorted(weight.dim() for weight in group["params"]) for group in groups] == [[2, 4], [1, 1, 1]]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]


def test_data_that_are_no_images(make_model, training):
    from nas_distill.data import Dataset

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 2
    x[:, 0] += 3 * y
    data = Dataset.from_tensors(x, y, val=0.25)
    distiller = Distiller(nn.Linear(5, 2), data, TrainingConfig(epochs=30, batch_size=8), signal=None, seed=0)
    distiller.advance(distiller.total_steps)
    assert distiller.quality() > 0.8


def test_read_only_data_train_without_a_warning(make_model, data, make_distiller):
    distiller = make_distiller()
    assert not data.train.x.flags.writeable
    distiller.advance(2)
