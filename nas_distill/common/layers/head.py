"""The classifier of a network, and the vector just before it."""

from __future__ import annotations

from torch import Tensor, nn

from nas_distill.common.layers.calls import Call, Recording, has_own_weights
from nas_distill.common.layers.layer import Layer


def classifier(recording: Recording) -> Call | None:
    """Return the call of the layer that makes the logits, None if no layer with weights does.

    It is the innermost layer with weights whose result is the logits; where something follows it (a scale, a softmax, a
    pooling), the last linear layer or convolution called, if it has a channel for each class.
    """
    for call in recording.last:
        if call.made is recording.logits and call.parent is not None and has_own_weights(call.module):
            return call
    linears = [call for call in recording.last if isinstance(call.module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if not linears or linears[-1].made is None:
        return None
    axis = -1 if isinstance(linears[-1].module, nn.Linear) else 1
    return linears[-1] if linears[-1].made.shape[axis] == recording.logits.shape[axis] else None


def before_head(recording: Recording) -> list[Call]:
    """Return the last calls that ended before the classifier began and that weights had a part in, by their end."""
    head = classifier(recording)
    end = max(call.ended for call in recording.calls) if head is None else head.started
    return [
        call
        for call in recording.last
        if call.ended < end and call.made is not None and call.made is not recording.logits and recording.learned(call)
    ]


def find_vector(recording: Recording) -> list[tuple[int, Layer]]:
    """Return the vector that the classifier takes, and when it was there; nothing if it takes no (B, D)."""
    head = classifier(recording)
    if head is None or head.given is None or not _is_vector(head.given, recording.batch):
        return []
    shape = tuple(head.given.shape[1:])
    makers = [call for call in before_head(recording) if call.made is head.given and not is_passing(call.module)]
    if makers:  # of those that return the same tensor, the outermost ends last
        return [(makers[-1].ended, Layer(makers[-1].name, shape, "vector"))]
    if not any(recording.learned(call) for call in recording.calls if call.ended < head.started):
        return []
    # In eval mode a dropout passes its input on as it is, so whoever took that tensor first took it without dropout.
    takers = [call for call in recording.last if call.given is head.given and call.parent is not None]
    first = min(takers, key=lambda call: call.started, default=head)
    return [(first.started, Layer(f"{first.name}:input", shape, "vector"))]


def is_passing(module: nn.Module) -> bool:
    """Say whether a module returns its very input in eval mode, and so is no layer of its own."""
    return isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)


def _is_vector(tensor: Tensor, batch: int) -> bool:
    return tensor.dim() == 2 and len(tensor) == batch
