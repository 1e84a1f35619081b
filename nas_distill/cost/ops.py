"""What a pass through a model is written down as: operations, and the buffers they read and make."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_distill.common.errors import CostError


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on activations.

    ``reads`` and ``makes`` are indices of buffers (``Trace.sizes``); a view of a buffer is the buffer. A ``pointwise``
    one may write over a buffer that it reads. ``shape`` is that of the first output, ``weight`` that of the largest
    parameter read (empty for none), ``weight_elements`` counts all parameters read, ``groups`` are a convolution's.
    """

    kind: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    pointwise: bool
    flops: int
    shape: tuple[int, ...]
    weight: tuple[int, ...] = ()
    weight_elements: int = 0
    groups: int = 1


@dataclass
class Trace:
    """A model's operations at batch 1, in the order of execution.

    ``sizes``: bytes of each buffer, floating-point values as float32. ``inputs`` are alive before the first operation,
    ``outputs`` stay alive to the end. What is computed from parameters alone is not an activation and has no operation
    here; ``constant_flops`` are its multiply-adds. ``uncounted`` names operations whose work is in no ``flops``.
    """

    ops: list[Op] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    constant_flops: int = 0
    uncounted: list[str] = field(default_factory=list)

    def flops(self) -> int:
        """Return the fused multiply-adds of the whole pass.

        Raises:
            CostError: some operation has work that cannot be counted; it is named.
        """
        if self.uncounted:
            names = ", ".join(sorted(set(self.uncounted)))
            raise CostError(
                f"flops cannot be counted: nothing is known of the work of {names} in this model; leave flops out of "
                "budget and objectives, or write that part with plain torch operations."
            )
        return self.constant_flops + sum(op.flops for op in self.ops)

    def peak_bytes(self) -> int:
        """Return the most bytes of buffers alive at once; ``count`` says what that means.

        Raises:
            CostError: the sizes of some operation's results are not known.
        """
        steps = len(self.ops)
        last = dict.fromkeys(self.inputs, -1)
        for step, op in enumerate(self.ops):
            last.update(dict.fromkeys((*op.reads, *op.makes), step))
        last.update(dict.fromkeys(self.outputs, steps))
        kept = set(self.inputs)  # the caller's buffer is read only
        alive = sum(self.sizes[buffer] for buffer in kept)
        peak = alive
        for step, op in enumerate(self.ops):
            alive += sum(self.sizes[buffer] for buffer in op.makes)
            dying = {buffer for buffer in op.reads if last[buffer] == step}
            if op.pointwise and len(op.makes) == 1:
                size = self.sizes[op.makes[0]]
                over = next((buffer for buffer in dying - kept if self.sizes[buffer] == size), None)
                if over is not None:
                    dying.discard(over)
                    alive -= size
            peak = max(peak, alive)
            dying.update(buffer for buffer in op.makes if last[buffer] == step)
            alive -= sum(self.sizes[buffer] for buffer in dying)
        return peak
