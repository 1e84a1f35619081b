import pytest
import torch
from torch import nn

from nas_distill.utils.errors import ConfigError
from nas_distill.utils.modules import memory_format, place, resolve_device, torch_threads


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 8, 3)],
        [nn.Conv2d(3, 8, 1)],
        [nn.Conv2d(8, 16, 1, stride=2)],
        [nn.Conv2d(4, 8, 3, stride=2)],
        [nn.Conv2d(16, 16, 1, stride=2, groups=16)],
    ],
)
def test_convolutional_networks_use_channels_last(layers):
    assert memory_format(nn.Sequential(*layers)) == torch.channels_last


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("stride", [2, (1, 2), (2, 1), 3])
def test_layers_that_would_corrupt_the_heap_stay_contiguous(channels, stride):
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Sequential(nn.Conv2d(channels, 16, 1, stride=stride)))
    assert memory_format(model) == torch.contiguous_format


def test_networks_without_2d_convolutions_stay_contiguous():
    assert memory_format(nn.Linear(3, 3)) == torch.contiguous_format
    both = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv3d(3, 8, 3)])
    assert memory_format(both) == torch.contiguous_format
    place(both, "cpu", memory_format(both))


def test_place_moves_a_module_in_place():
    model = nn.Conv2d(4, 8, 3)
    assert place(model, "cpu", torch.channels_last) is model
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    place(model, "cpu", torch.contiguous_format)
    assert model.weight.is_contiguous()


def test_devices_by_name():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "CPU0", "xpu", "privateuseone"])
def test_an_unavailable_device_is_refused(name):
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here; use auto or cpu"):
        resolve_device(name)


def test_the_number_of_threads_is_restored_after_an_error():
    before, inside = torch.get_num_threads(), []

    def run():
        with torch_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
