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


# What it says.


def test_stored_logits_are_the_live_ones_within_fp16_for_every_view_and_for_validation(store, teacher, data):
    live = LiveSignal(teacher)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    seen = []
    for view in range(data.views.count):
        x, _ = data.batch("train", order, view)
        expected, stored = live.answer("train", order, view, x).logits, store.answer("train", order, view, x).logits
        assert stored.dtype == torch.float32
        torch.testing.assert_close(stored, expected, rtol=2**-10, atol=1e-6)
        seen.append(expected)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)  # else views could be mixed up unnoticed
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
    assert array.shape == (1, len(data.train), 3)  # the teacher was asked once, not four times the same
    assert array.dtype == np.float16


@pytest.mark.parametrize(
    ("split", "view"), [("train", None), ("train", 3), ("train", -1), ("val", 0), ("test", None), ("test", 0)]
)
def test_what_it_does_not_hold_is_refused(store, split, view):
    with pytest.raises(TeacherError, match="teacher store holds"):
        store.answer(split, torch.arange(2), view, torch.zeros(2))


def test_progress_is_told_to_the_end(tmp_path, teacher, data):
    told = []
    TeacherStore.build(tmp_path, teacher, data, batch_size=7, on_progress=told.append)
    total = 3 * len(data.train) + len(data.val)
    assert [progress.done for progress in told] == sorted({progress.done for progress in told})
    assert told[-1].done == told[-1].total == total


# When it is written, and when not.


def test_it_is_built_once_and_reopened(tmp_path, store, teacher, data):
    before = states(tmp_path)

    def refuse(progress):
        raise AssertionError("written again")

    again = TeacherStore.build(tmp_path / "stores", teacher, data, on_progress=refuse)
    assert again.folder == store.folder
    assert again.identity() == store.identity()
    assert states(tmp_path) == before
    assert TeacherStore.open(tmp_path / "stores", teacher, data).key == store.key


def test_the_key_changes_with_all_that_the_logits_depend_on(store, teacher, data, make_data, make_teacher):
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


def test_another_teacher_gets_a_store_of_its_own(tmp_path, store, data, make_teacher):
    other = TeacherStore.build(tmp_path / "stores", make_teacher(seed=1), data)
    assert other.folder != store.folder
    with pytest.raises(TeacherError, match="is no teacher store"):
        TeacherStore.open(tmp_path / "stores", make_teacher(seed=2), data)


def test_a_store_of_another_key_in_its_place_is_refused(tmp_path, store, data, make_teacher):
    other = make_teacher(seed=1)
    place = store.folder.with_name(store_key(other, data)[:16])
    store.folder.rename(place)
    with pytest.raises(TeacherError, match="is of another teacher or other data; delete it"):
        TeacherStore.build(tmp_path / "stores", other, data)


def test_a_teacher_that_computes_otherwise_with_the_same_weights_is_found_out(tmp_path, make_module, data):
    class Scaled(nn.Module):
        scale = 1.0  # in no weight, and not in what prints

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) * self.scale

    first, second = freeze(Scaled(make_module()), data), freeze(Scaled(make_module()), data)
    second.module.scale = 2.0
    assert first.fingerprint == second.fingerprint
    TeacherStore.build(tmp_path, first, data)
    with pytest.raises(TeacherError, match=r"differs from the teacher by .* delete it and let it be written again"):
        TeacherStore.build(tmp_path, second, data)


def test_a_thawed_teacher_is_not_asked(tmp_path, teacher, data):
    teacher.module.train()
    with pytest.raises(TeacherError, match="in train mode"):
        TeacherStore.build(tmp_path, teacher, data)
    assert files(tmp_path) == []


class Spiky(nn.Module):
    """Gives ``value`` for one training sample (not among those it is tried on), and ordinary logits for the others."""

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
        (7e4, r"has logits up to 7e\+04, beyond fp16; set teacher\.signal to live"),
        (-7e4, r"has logits up to 7e\+04, beyond fp16"),
        (float("nan"), "returns NaN or infinity on some of the data"),
        (float("inf"), "returns NaN or infinity on some of the data"),
    ],
)
def test_logits_that_fp16_cannot_hold_are_refused(tmp_path, value, message):
    x = np.random.default_rng(0).integers(0, 250, (20, 1, 4, 4), dtype=np.uint8)
    x[7] = 255
    data = Dataset.from_tensors(x, np.arange(20) % 3, val=(x[:4], np.arange(4) % 3))
    with pytest.raises(TeacherError, match=f"Teacher 'spiky' {message}"):
        TeacherStore.build(tmp_path, freeze(Spiky(value), data, "spiky"), data)
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []


@pytest.mark.parametrize("value", [65504.0, -65504.0, 6e-8, 0.0])
def test_the_ends_of_fp16_are_held(tmp_path, value):
    x = np.random.default_rng(0).integers(0, 250, (20, 1, 4, 4), dtype=np.uint8)
    x[7] = 255
    data = Dataset.from_tensors(x, np.arange(20) % 3, val=(x[:4], np.arange(4) % 3))
    store = TeacherStore.build(tmp_path, freeze(Spiky(value), data), data)
    stored = store.answer("train", torch.tensor([7]), 0, torch.zeros(1)).logits
    torch.testing.assert_close(stored, torch.full((1, 3), value), rtol=1e-3, atol=6e-8)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, teacher, data, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer._Records, "append", full)
    with pytest.raises(TeacherError, match=r"cannot be written \(OSError: .*No space left on device\)\.$"):
        TeacherStore.build(tmp_path, teacher, data)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    TeacherStore.build(tmp_path, teacher, data).verify(teacher, data)


def test_a_root_that_cannot_be_made(tmp_path, teacher, data):
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
    """Build a store in another process, which stops in the middle until ``permission`` exists."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(BUILD), str(root), str(permission)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
    )


def test_a_store_whose_writer_was_killed_is_not_taken_but_written(tmp_path):
    root, permission = tmp_path / "stores", tmp_path / "permission"
    writer = build_elsewhere(root, permission)
    assert [writer.stdout.readline() for _ in range(6)] == ["begins\n", *["wrote\n"] * 5]
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    left = files(root)
    assert any(name.endswith("train.logits.npy") for name in left)
    assert all(name.startswith(".") for name in left)  # nothing that could be taken for a store
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
    time.sleep(0.5)  # for it to do the wrong thing
    permission.touch()
    (out, err), (other, other_err) = first.communicate(), second.communicate()
    assert (err, other_err) == ("", "")
    assert "built 0" in out
    assert other.startswith("built 0")  # it never asked its own teacher


def test_a_writer_that_fails_lets_the_next_one_in(tmp_path, teacher, data):
    """Also within a process: a lock that is not let go would hang here."""

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
    """What store.json says of the files as they are now, or of another shape."""
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
    (lambda folder: (folder / "store.json").unlink(), "is no teacher store"),
    (lambda folder: (folder / "store.json").write_text("{"), "is damaged"),
    (lambda folder: (folder / "store.json").write_text("[]"), "is damaged"),
    (lambda folder: (folder / "store.json").write_text('{"format": 2}'), "is damaged .*'key'"),
    (lambda folder: change_meta(folder, format=99), "has format 99, not 2"),
    (lambda folder: change_meta(folder, files={"train.logits.npy": {"shape": [3, 24, 3]}}), "is damaged"),
    (lambda folder: change_meta(folder, files=written(folder, [3, 23, 3])), "is not what store.json says"),
    (lambda folder: change_meta(folder, features=[{"layer": {}}]), "is damaged"),
    (lambda folder: (folder / "val.logits.npy").unlink(), "is damaged"),
    (lambda folder: cut(folder / "train.logits.npy"), "is damaged"),
    (lambda folder: (folder / "train.logits.npy").write_bytes(b""), "is damaged"),
    (lambda folder: flip(folder / "train.logits.npy", 2), "is damaged"),
    (lambda folder: np.save(folder / "val.logits.npy", np.zeros((6, 3))), "is not what store.json says"),
    (lambda folder: np.save(folder / "val.logits.npy", np.array([{}], dtype=object)), "is damaged"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_store_is_refused_with_what_to_do(tmp_path, store, teacher, data, damage, message):
    damage(store.folder)
    with pytest.raises(TeacherError, match=message) as caught:
        TeacherStore.build(tmp_path / "stores", teacher, data)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(TeacherError, match="is no teacher store"):
        TeacherStore(tmp_path)


# Verification.


def test_verification_says_how_near_the_answers_are(store, teacher, data):
    found = store.verify(teacher, data, samples=50)
    assert found.samples == 50
    assert found.same_class == 1.0
    assert 0 < found.max_difference < 2e-3


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_verification_finds_a_single_flipped_value(store, teacher, data, split, place):
    path = store.folder / f"{split}.logits.npy"
    array = np.load(path)
    array.reshape(-1)[place] += np.float16(0.01)
    np.save(path, array)
    with pytest.raises(TeacherError, match=f"{split}.logits.npy has changed since it was written; delete"):
        TeacherStore(store.folder).verify(teacher, data)


@pytest.mark.parametrize("split", ["train", "val"])
def test_verification_finds_answers_to_other_questions(store, teacher, data, split):
    """Rows out of order, checksum and all: only the teacher can tell."""
    path = store.folder / f"{split}.logits.npy"
    np.save(path, np.ascontiguousarray(np.load(path)[..., ::-1, :]))
    reopened = TeacherStore(store.folder)
    change_meta(store.folder, files=written(store.folder))
    reopened = TeacherStore(store.folder)
    with pytest.raises(TeacherError, match=f"differs from the teacher by .* on {split} samples"):
        reopened.verify(teacher, data)


def test_verification_finds_views_that_were_swapped(store, teacher, data):
    path = store.folder / "train.logits.npy"
    np.save(path, np.ascontiguousarray(np.load(path)[[1, 0, 2]]))
    change_meta(store.folder, files=written(store.folder))
    with pytest.raises(TeacherError, match="on train samples"):
        TeacherStore(store.folder).verify(teacher, data)


def test_verification_of_a_store_of_something_else(store, teacher, data, make_teacher, make_data):
    for other_teacher, other_data in ((make_teacher(seed=1), data), (teacher, make_data(seed=1))):
        with pytest.raises(TeacherError, match="is of another teacher, other data or other views"):
            store.verify(other_teacher, other_data)


# Sharing.


def test_it_pickles_as_its_path(store, data):
    packed = pickle.dumps(store)
    assert len(packed) < 500
    again = pickle.loads(packed)
    x, _ = data.batch("train", torch.arange(5), 2)
    assert torch.equal(
        again.answer("train", torch.arange(5), 2, x).logits, store.answer("train", torch.arange(5), 2, x).logits
    )
    assert again.identity() == store.identity()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
def test_its_pages_are_those_of_the_file(store):
    tensor = store._arrays["train.logits.npy"]
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= place < end:
            assert line.endswith(str(store.folder / "train.logits.npy"))
            assert " r--" in line
            break
    else:
        raise AssertionError("the tensor's memory is mapped nowhere")


def test_what_is_given_out_is_a_copy(store, teacher, data):
    x, _ = data.batch("train", torch.arange(5), 0)
    store.answer("train", torch.arange(5), 0, x).logits.zero_()
    store.verify(teacher, data)


def test_its_size_is_what_is_on_disk(store, data):
    logits = (3 * len(data.train) + len(data.val)) * 3 * 2
    assert store.bytes == sum((store.folder / name).stat().st_size for name in files(store.folder))
    assert logits < store.bytes < logits + 5000


# Before anything trains.


def test_data_that_it_was_not_written_for_is_refused(store, data, make_data):
    store.check(data)
    store.check(make_data())
    with pytest.raises(TeacherError, match="teacher tells 3 classes apart, but data 'toy' has 5"):
        store.check(make_data(classes=5))
    others = [make_data(seed=1), make_data(count=40), data.with_views(Views(count=3, pad=1, flip=True, seed=1))]
    for other in others:
        with pytest.raises(TeacherError, match="so its answers would meet other samples"):
            store.check(other)


# Of many classes the largest, and of inner layers what is small.


LAYER = Layer("hidden", (5,), "vector")


@pytest.fixture
def wide(make_data):
    """A teacher of a hidden layer and as many classes as the data."""
    data = make_data()
    torch.manual_seed(0)
    size = math.prod(data.input_shape)
    module = nn.Sequential(
        OrderedDict(flat=nn.Flatten(), hidden=nn.Linear(size, 5), last=nn.Linear(5, data.num_classes))
    )
    return freeze(module, data), data


@pytest.mark.parametrize("missing", ["uniform", "zero"])
def test_the_largest_logits_are_kept_and_the_others_share_the_rest(tmp_path, wide, missing):
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
def test_the_share_of_the_rest_is_kept_whatever_the_logits(logits, top_k):
    logits = torch.from_numpy(logits)
    values, classes = compress(logits, top_k)
    dense = expand(values, classes, 7, "uniform")
    torch.testing.assert_close(dense.logsumexp(1), logits.logsumexp(1))
    torch.testing.assert_close(dense.gather(1, classes), logits.gather(1, classes))


@pytest.mark.parametrize("top_k", [0, 3, 9])
def test_as_many_classes_as_there_are_is_no_top_k(tmp_path, wide, top_k):
    teacher, data = wide
    with pytest.raises(TeacherError, match="keeps from 1 to 2"):
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


def test_whole_layers_are_not_stored(tmp_path, wide):
    teacher, data = wide
    with pytest.raises(TeacherError, match="'hidden' is asked for in full"):
        TeacherStore.build(tmp_path, teacher, data, contents=Contents((Feature(LAYER, "full"),)))
