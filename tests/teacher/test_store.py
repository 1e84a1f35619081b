import errno
import hashlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from nas_distill.data import Dataset, Views
from nas_distill.distill.losses.kd import divergence
from nas_distill.teacher import LiveSignal, TeacherStore, freeze, store_writer
from nas_distill.teacher.signal import Feature
from nas_distill.teacher.store import expand, store_key
from nas_distill.teacher.store_writer import Contents, compress
from nas_distill.utils.errors import TeacherError
from nas_distill.utils.layers import Layer

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path, teacher, data):
    return TeacherStore.build(tmp_path / "stores", teacher, data)


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def states(root):
    return {path.name: path.stat().st_mtime_ns for path in root.rglob("*")}


# Answers.


def test_stored_logits_equal_live_ones_within_fp16_for_every_view_and_for_validation(store, teacher, data):
    live = LiveSignal(teacher)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    answers = []
    for view in range(data.views.count):
        x, _ = data.batch("train", order, view)
        expected, stored = live.answer("train", order, view, x).logits, store.answer("train", order, view, x).logits
        assert stored.dtype == torch.float32
        torch.testing.assert_close(stored, expected, rtol=2**-10, atol=1e-6)
        answers.append(expected)
    assert not torch.allclose(answers[0], answers[1], atol=1e-2)  # otherwise swapped views would go unnoticed
    x, _ = data.batch("val", torch.arange(len(data.val)))
    expected = live.answer("val", torch.arange(len(data.val)), None, x).logits
    stored = store.answer("val", torch.arange(len(data.val)), None, x).logits
    torch.testing.assert_close(stored, expected, rtol=2**-10, atol=1e-6)
    index = torch.tensor([4, 1, 1])
    torch.testing.assert_close(store.answer("val", index, None, x).logits, expected[index], rtol=2**-10, atol=1e-6)


def test_a_teacher_in_half_precision_or_data_without_views(tmp_path, make_data, make_module):
    data = make_data(views=Views(count=4))
    store = TeacherStore.build(tmp_path, freeze(make_module(), data), data)
    assert store.verify(freeze(make_module(), data), data).samples == 256
    array = np.load(store.folder / "train.logits.npy")
    assert array.shape == (1, len(data.train), 3)  # four identical views are stored once
    assert array.dtype == np.float16


@pytest.mark.parametrize(
    ("split", "view"), [("train", None), ("train", 3), ("train", -1), ("val", 0), ("test", None), ("test", 0)]
)
def test_splits_and_views_outside_the_store_are_refused(store, split, view):
    with pytest.raises(TeacherError, match="The teacher store"):
        store.answer(split, torch.arange(2), view, torch.zeros(2))


def test_progress_is_reported_to_the_end(tmp_path, teacher, data):
    reported = []
    TeacherStore.build(tmp_path, teacher, data, batch_size=7, on_progress=reported.append)
    total = 3 * len(data.train) + len(data.val)
    assert [progress.done for progress in reported] == sorted({progress.done for progress in reported})
    assert reported[-1].done == reported[-1].total == total


# Writing and reopening.


def test_a_store_is_built_once_and_reopened(tmp_path, store, teacher, data):
    before = states(tmp_path)

    def refuse(progress):
        raise AssertionError("written again")

    again = TeacherStore.build(tmp_path / "stores", teacher, data, on_progress=refuse)
    assert again.folder == store.folder
    assert again.identity() == store.identity()
    assert states(tmp_path) == before
    assert TeacherStore.open(tmp_path / "stores", teacher, data).key == store.key


def test_the_key_changes_with_everything_that_the_logits_depend_on(store, teacher, data, make_data, make_teacher):
    views = data.views
    keys = [
        store.key,
        store_key(make_teacher(seed=1), data),
        store_key(teacher, make_data(seed=1)),
        store_key(teacher, make_data(mean=(0.1,), std=(1.0,))),
        *(
            store_key(teacher, data.with_views(replace(views, **change)))
            for change in ({"count": 4}, {"pad": 2}, {"flip": False}, {"seed": 1})
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert store_key(teacher, make_data()) == store.key


def test_another_teacher_gets_its_own_store(tmp_path, store, data, make_teacher):
    other = TeacherStore.build(tmp_path / "stores", make_teacher(seed=1), data)
    assert other.folder != store.folder
    with pytest.raises(TeacherError, match=r"store\.json is missing"):
        TeacherStore.open(tmp_path / "stores", make_teacher(seed=2), data)


def test_a_folder_with_a_store_of_another_key_is_refused(tmp_path, store, data, make_teacher):
    other = make_teacher(seed=1)
    store.folder.rename(store.folder.with_name(store_key(other, data)[:16]))
    with pytest.raises(TeacherError, match="another teacher or other data; delete it"):
        TeacherStore.build(tmp_path / "stores", other, data)


def test_a_teacher_with_the_same_fingerprint_and_other_answers_is_detected(tmp_path, make_module, data):
    class Scaled(nn.Module):
        scale = 1.0  # neither a weight nor printed

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) * self.scale

    first, second = freeze(Scaled(make_module()), data), freeze(Scaled(make_module()), data)
    second.module.scale = 2.0
    assert first.fingerprint == second.fingerprint
    TeacherStore.build(tmp_path, first, data)
    with pytest.raises(TeacherError, match=r"differs from the teacher by .*; delete it"):
        TeacherStore.build(tmp_path, second, data)


def test_no_store_is_written_from_a_teacher_in_train_mode(tmp_path, teacher, data):
    teacher.module.train()
    with pytest.raises(TeacherError, match="in train mode"):
        TeacherStore.build(tmp_path, teacher, data)
    assert files(tmp_path) == []


class Spiky(nn.Module):
    """Network that returns ``value`` for one training sample, which ``freeze`` does not run, else ordinary logits."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        logits = x.flatten(1)[:, :3].clone()
        logits[x.flatten(1).sum(1) == 16] = self.value  # the white image
        return logits


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7e4, r"has logits up to 7e\+04.* set teacher\.signal to live"),
        (-7e4, r"has logits up to 7e\+04"),
        (float("nan"), "returns NaN or infinity on some of the data"),
        (float("inf"), "returns NaN or infinity on some of the data"),
    ],
)
def test_logits_outside_the_range_of_fp16_are_refused(tmp_path, value, message):
    x = np.random.default_rng(0).integers(0, 250, (20, 1, 4, 4), dtype=np.uint8)
    x[7] = 255
    data = Dataset.from_tensors(x, np.arange(20) % 3, val=(x[:4], np.arange(4) % 3))
    with pytest.raises(TeacherError, match=f"Teacher 'spiky' {message}"):
        TeacherStore.build(tmp_path, freeze(Spiky(value), data, "spiky"), data)
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []


@pytest.mark.parametrize("value", [65504.0, -65504.0, 6e-8, 0.0])
def test_the_extreme_values_of_fp16_are_stored(tmp_path, value):
    x = np.random.default_rng(0).integers(0, 250, (20, 1, 4, 4), dtype=np.uint8)
    x[7] = 255
    data = Dataset.from_tensors(x, np.arange(20) % 3, val=(x[:4], np.arange(4) % 3))
    store = TeacherStore.build(tmp_path, freeze(Spiky(value), data), data)
    stored = store.answer("train", torch.tensor([7]), 0, torch.zeros(1)).logits
    torch.testing.assert_close(stored, torch.full((1, 3), value), rtol=1e-3, atol=6e-8)


def test_a_full_disk_gives_one_sentence_and_leaves_no_files(tmp_path, teacher, data, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer._Records, "append", full)
    with pytest.raises(TeacherError, match=r"cannot be written \(OSError: .*No space left on device\)\.$"):
        TeacherStore.build(tmp_path, teacher, data)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    TeacherStore.build(tmp_path, teacher, data).verify(teacher, data)


def test_a_root_that_cannot_be_created_is_refused(tmp_path, teacher, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(TeacherError, match=r"cannot be written \(FileExistsError|NotADirectoryError"):
        TeacherStore.build(tmp_path / "file", teacher, data)


# Real processes.

BUILD = """
    import sys, time
    from pathlib import Path
    import numpy as np, torch
    from torch import nn
    from nas_distill.data import Dataset, Views
    from nas_distill.teacher import TeacherStore, freeze

    root, permission = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    data = Dataset.from_tensors(x, np.arange(60) % 3, views=Views(count=3, pad=1))
    torch.manual_seed(0)
    teacher = freeze(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data)

    def pause(progress):
        print("wrote", flush=True)
        while progress.done >= 20 and not permission.exists():
            time.sleep(0.05)

    print("begins", flush=True)
    store = TeacherStore.build(root, teacher, data, batch_size=4, on_progress=pause)
    print("built", store.verify(teacher, data).max_difference, flush=True)
"""


def build_elsewhere(root, permission):
    """Build a store in another process, which pauses half-way until ``permission`` exists."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(BUILD), str(root), str(permission)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
    )


def test_a_store_whose_writer_was_killed_is_written_again(tmp_path):
    root, permission = tmp_path / "stores", tmp_path / "permission"
    writer = build_elsewhere(root, permission)
    assert [writer.stdout.readline() for _ in range(6)] == ["begins\n", *["wrote\n"] * 5]
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    left = files(root)
    assert any(name.endswith("train.logits.npy") for name in left)
    assert all(name.startswith(".") for name in left)  # none could be mistaken for a store
    permission.touch()
    out, err = build_elsewhere(root, permission).communicate()
    assert "built 0" in out, err
    assert err == ""
    assert [name for name in files(root) if not name.startswith(".")] != []
    assert not any(".part" in name for name in files(root))


def test_of_two_processes_one_writes_and_the_other_waits(tmp_path):
    root, permission = tmp_path / "stores", tmp_path / "permission"
    first = build_elsewhere(root, permission)
    assert [first.stdout.readline() for _ in range(6)] == ["begins\n", *["wrote\n"] * 5]
    second = build_elsewhere(root, permission)
    assert second.stdout.readline() == "begins\n"
    time.sleep(0.5)  # time in which a missing lock would show
    permission.touch()
    (out, err), (other, other_err) = first.communicate(), second.communicate()
    assert (err, other_err) == ("", "")
    assert "built 0" in out
    assert other.startswith("built 0")  # read from the file that the first process wrote


def test_a_writer_that_fails_releases_the_lock(tmp_path, teacher, data):
    """The lock is released within a process too; otherwise this test would hang."""

    def fail(progress):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        TeacherStore.build(tmp_path, teacher, data, on_progress=fail)
    built = []
    thread = threading.Thread(target=lambda: built.append(TeacherStore.build(tmp_path, teacher, data)), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not built and time.monotonic() < deadline:
        thread.join(0.1)
    assert built


# Damage.


def change_meta(folder, **changes):
    path = folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def written(folder, shape=None):
    """Return the entry ``files`` of store.json for the current files, or with another shape."""
    return {
        path.name: {
            "shape": shape or list(np.load(path).shape),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.glob("*.npy")
    }


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


DAMAGE = [
    (lambda folder: (folder / "store.json").unlink(), "store.json is missing"),
    (lambda folder: (folder / "store.json").write_text("{"), "is damaged"),
    (lambda folder: (folder / "store.json").write_text("[]"), "is damaged"),
    (lambda folder: (folder / "store.json").write_text('{"format": 2}'), "is damaged .*'key'"),
    (lambda folder: change_meta(folder, format=99), "has format 99, not 2"),
    (lambda folder: change_meta(folder, files={"train.logits.npy": {"shape": [3, 24, 3]}}), "is damaged"),
    (lambda folder: change_meta(folder, files=written(folder, [3, 23, 3])), "does not match store.json"),
    (lambda folder: change_meta(folder, features=[{"layer": {}}]), "is damaged"),
    (lambda folder: (folder / "val.logits.npy").unlink(), "is damaged"),
    (lambda folder: cut(folder / "train.logits.npy"), "is damaged"),
    (lambda folder: (folder / "train.logits.npy").write_bytes(b""), "is damaged"),
    (lambda folder: flip(folder / "train.logits.npy", 2), "is damaged"),
    (lambda folder: np.save(folder / "val.logits.npy", np.zeros((6, 3))), "does not match store.json"),
    (lambda folder: np.save(folder / "val.logits.npy", np.array([{}], dtype=object)), "is damaged"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_store_is_refused(tmp_path, store, teacher, data, damage, message):
    damage(store.folder)
    with pytest.raises(TeacherError, match=message) as caught:
        TeacherStore.build(tmp_path / "stores", teacher, data)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"store\.json is missing"):
        TeacherStore(tmp_path)


# Verification.


def test_verification_reports_the_largest_difference_of_answers(store, teacher, data):
    found = store.verify(teacher, data, samples=50)
    assert found.samples == 50
    assert found.same_class == 1.0
    assert 0 < found.max_difference < 2e-3


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("position", [0, 3, -1])
def test_verification_detects_a_single_changed_value(store, teacher, data, split, position):
    path = store.folder / f"{split}.logits.npy"
    array = np.load(path)
    array.reshape(-1)[position] += np.float16(0.01)
    np.save(path, array)
    with pytest.raises(TeacherError, match=f"{split}.logits.npy has changed since it was written; delete"):
        TeacherStore(store.folder).verify(teacher, data)


@pytest.mark.parametrize("split", ["train", "val"])
def test_verification_detects_answers_in_the_wrong_order(store, teacher, data, split):
    """Rows are reversed and checksums updated, so only the comparison with the teacher can detect it."""
    path = store.folder / f"{split}.logits.npy"
    np.save(path, np.ascontiguousarray(np.load(path)[..., ::-1, :]))
    change_meta(store.folder, files=written(store.folder))
    reopened = TeacherStore(store.folder)
    with pytest.raises(TeacherError, match=f"differs from the teacher by .* on {split} samples"):
        reopened.verify(teacher, data)


def test_verification_detects_swapped_views(store, teacher, data):
    path = store.folder / "train.logits.npy"
    np.save(path, np.ascontiguousarray(np.load(path)[[1, 0, 2]]))
    change_meta(store.folder, files=written(store.folder))
    with pytest.raises(TeacherError, match="on train samples"):
        TeacherStore(store.folder).verify(teacher, data)


def test_verification_with_another_teacher_or_other_data_is_refused(store, teacher, data, make_teacher, make_data):
    for other_teacher, other_data in ((make_teacher(seed=1), data), (teacher, make_data(seed=1))):
        with pytest.raises(TeacherError, match="another teacher, other data or other views"):
            store.verify(other_teacher, other_data)


# Sharing.


def test_a_store_pickles_as_its_path(store, data):
    packed = pickle.dumps(store)
    assert len(packed) < 500
    again = pickle.loads(packed)
    x, _ = data.batch("train", torch.arange(5), 2)
    assert torch.equal(
        again.answer("train", torch.arange(5), 2, x).logits, store.answer("train", torch.arange(5), 2, x).logits
    )
    assert again.identity() == store.identity()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_memory_pages_are_those_of_the_file(store):
    tensor = store._arrays["train.logits.npy"]
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            assert line.endswith(str(store.folder / "train.logits.npy"))
            assert " r--" in line
            break
    else:
        raise AssertionError("the tensor's memory is not mapped")


def test_answers_are_copies(store, teacher, data):
    x, _ = data.batch("train", torch.arange(5), 0)
    store.answer("train", torch.arange(5), 0, x).logits.zero_()
    store.verify(teacher, data)


def test_the_size_is_the_size_on_disk(store, data):
    logits = (3 * len(data.train) + len(data.val)) * 3 * 2
    assert store.bytes == sum((store.folder / name).stat().st_size for name in files(store.folder))
    assert logits < store.bytes < logits + 5000


# Checks before training.


def test_data_that_the_store_was_not_written_for_are_refused(store, data, make_data):
    store.check(data)
    store.check(make_data())
    with pytest.raises(TeacherError, match="has 3 classes, but data 'toy' has 5"):
        store.check(make_data(classes=5))
    others = [make_data(seed=1), make_data(count=40), data.with_views(Views(count=3, pad=1, flip=True, seed=1))]
    for other in others:
        with pytest.raises(TeacherError, match="not for data 'toy'"):
            store.check(other)


# The largest logits of many classes, and small features of inner layers.


LAYER = Layer("hidden", (5,), "vector")


@pytest.fixture
def wide(make_data):
    """A teacher with a hidden layer, and its data."""
    data = make_data()
    torch.manual_seed(0)
    size = math.prod(data.input_shape)
    module = nn.Sequential(
        OrderedDict(flat=nn.Flatten(), hidden=nn.Linear(size, 5), last=nn.Linear(5, data.num_classes))
    )
    return freeze(module, data), data


@pytest.mark.parametrize("missing", ["uniform", "zero"])
def test_the_top_k_logits_are_kept_and_the_others_share_the_rest(tmp_path, wide, missing):
    teacher, data = wide
    store = TeacherStore.build(tmp_path, teacher, data, contents=Contents(top_k=1), missing=missing)
    x, _ = data.batch("val", torch.arange(6))
    full = LiveSignal(teacher).answer("val", torch.arange(6), None, x).logits
    kept = pickle.loads(pickle.dumps(store)).answer("val", torch.arange(6), None, x).logits
    assert torch.equal(kept.argmax(1), full.argmax(1))
    top, others = full.softmax(1).amax(1), kept.softmax(1).sort(1).values[:, :-1]
    if missing == "uniform":
        torch.testing.assert_close(kept.softmax(1).amax(1), top, rtol=5e-3, atol=1e-3)
        torch.testing.assert_close(
            others, ((1 - top) / (data.num_classes - 1))[:, None].expand_as(others), rtol=2e-2, atol=2e-3
        )
    else:
        assert float(others.max()) == 0
    assert torch.isfinite(divergence(torch.randn(6, data.num_classes), kept, 4.0))
    store.verify(teacher, data)


@given(hnp.arrays(np.float64, (4, 7), elements=st.floats(-30, 30)), st.integers(1, 6))
def test_the_probability_of_the_rest_is_kept_for_any_logits(logits, top_k):
    logits = torch.from_numpy(logits)
    values, classes = compress(logits, top_k)
    dense = expand(values, classes, 7, "uniform")
    torch.testing.assert_close(dense.logsumexp(1), logits.logsumexp(1))
    torch.testing.assert_close(dense.gather(1, classes), logits.gather(1, classes))


@pytest.mark.parametrize("top_k", [0, 3, 9])
def test_top_k_outside_one_to_classes_minus_one_is_refused(tmp_path, wide, top_k):
    teacher, data = wide
    with pytest.raises(TeacherError, match="from 1 to 2"):
        TeacherStore.build(tmp_path, teacher, data, contents=Contents(top_k=top_k))


def test_small_features_are_kept_beside_the_logits(tmp_path, wide):
    teacher, data = wide
    feature = Feature(LAYER, "pooled")
    contents = Contents((feature,))
    store = TeacherStore.build(tmp_path, teacher, data, contents=contents)
    assert store.features == (feature,)
    live = LiveSignal(teacher, features=[feature])
    index = torch.arange(4)
    for split, view in [("train", 1), ("val", None)]:
        x, _ = data.batch(split, index, view)
        expected, stored = live.answer(split, index, view, x), store.answer(split, index, view, x)
        torch.testing.assert_close(stored.features[feature.key], expected.features[feature.key], rtol=2e-3, atol=1e-3)
    store.verify(teacher, data)
    plain = TeacherStore.build(tmp_path, teacher, data)
    assert plain.key != store.key
    size = sum(path.stat().st_size for path in store.folder.glob("*.npy"))
    assert 0 <= size - contents.bytes(data.num_classes, data) <= 128 * 4  # headers


def test_full_layer_outputs_are_not_stored(tmp_path, wide):
    teacher, data = wide
    with pytest.raises(TeacherError, match="layer 'hidden' is too large"):
        TeacherStore.build(tmp_path, teacher, data, contents=Contents((Feature(LAYER, "full"),)))
