import torch

from nas_distill.distill import Distiller
from nas_distill.distill.mutual import MutualSignal, advance_mutual, connect_peers
from nas_distill.teacher.signal import mixture


def pair(make_model, data, training, signal, *, introduced=True):
    signals = [MutualSignal(signal, 4.0) for _ in range(2)]
    distillers = [
        Distiller(make_model(seed=place), data, training, signal=own, seed=0) for place, own in enumerate(signals)
    ]
    if introduced:
        connect_peers(distillers, signals)
    return distillers, signals


def test_peers_and_teacher_answer_as_one_mixture(make_model, data, training, signal):
    distillers, signals = pair(make_model, data, training, signal)
    index = torch.arange(5)
    x, _ = data.batch("train", index, 0)
    teacher = signal.answer("train", index, 0, x).logits
    with torch.no_grad():
        peer = distillers[1].averaged.module(x)
    expected = mixture(torch.stack([teacher, peer]), torch.full((2, 5), 0.5), 4.0)
    torch.testing.assert_close(signals[0].answer("train", index, 0, x).logits, expected)


def test_they_keep_step_and_change_each_other(make_model, data, training, signal):
    together, _ = pair(make_model, data, training, signal)
    apart, _ = pair(make_model, data, training, signal, introduced=False)
    for distillers in (together, apart):
        advance_mutual(distillers, 5)
        assert [distiller.step for distiller in distillers] == [5, 5]
    x, _ = data.batch("val", torch.arange(8))
    said = [[distiller.student()(x).detach() for distiller in distillers] for distillers in (together, apart)]
    assert not torch.equal(said[0][0], said[1][0])
    distances = [float((first.softmax(1) - second.softmax(1)).abs().mean()) for first, second in said]
    assert distances[0] < distances[1]  # they come to say the same


def test_saved_and_loaded_they_go_on_alike(make_model, data, training, signal, tmp_path):
    whole, _ = pair(make_model, data, training, signal)
    advance_mutual(whole, 8)
    first, _ = pair(make_model, data, training, signal)
    advance_mutual(first, 4)
    for place, distiller in enumerate(first):
        distiller.save(tmp_path / str(place))
    again, _ = pair(make_model, data, training, signal)
    assert all(distiller.load(tmp_path / str(place)) for place, distiller in enumerate(again))
    advance_mutual(again, 8)
    for one, other in zip(whole, again):
        for key, value in one.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[key]), key
