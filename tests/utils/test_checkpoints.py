import hashlib
import io

import pytest
import torch

from nas_distill.utils.checkpoints import read_state, write_state
from nas_distill.utils.errors import StorageError, TrainingError


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "state.pt"
    write_state(file, {"step": 3, "weights": torch.arange(100.0)})
    return file


def test_a_state_is_read_back(path):
    state = read_state(path)
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(100.0))


def test_every_changed_byte_and_truncation_is_detected(path):
    """Torch itself reads most of these files, some with changed weights."""
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(TrainingError, match=r"state\.pt is damaged .*; delete it"):
            read_state(path)
        path.write_bytes(content[:place])
        with pytest.raises(TrainingError, match="is damaged"):
            read_state(path)


def test_foreign_files_and_pickled_code_are_refused(path, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'was_run')!r}, 'w')",)

    torch.save({"step": 3}, path)
    with pytest.raises(TrainingError, match="is damaged"):
        read_state(path)
    content = io.BytesIO()
    torch.save({"step": Payload()}, content)
    path.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
    with pytest.raises(TrainingError, match="is damaged"):
        read_state(path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
    ids=str,
)
def test_lack_of_memory_is_not_reported_as_damage(path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as caught:
        read_state(path)
    assert caught.value is error


def test_an_unreadable_file_is_not_reported_as_damage(tmp_path):
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(StorageError, match=r"state\.pt cannot be read"):
        read_state(tmp_path / "state.pt")
