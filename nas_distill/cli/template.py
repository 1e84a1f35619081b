"""The commented search file that ``nas-distill init`` writes."""

from __future__ import annotations

from pathlib import Path

from nas_distill.utils.errors import ConfigError
from nas_distill.utils.files import write_text

TEMPLATE = """\
# A search for nas-distill. Inspect costs before training:  nas-distill search THIS_FILE --dry-run
seed: 0

data:
  name: fashion-mnist        # fashion-mnist, digits, a .npz file, or package.module:function
  # root: /usr/share/datasets/fashion-mnist   # the full set, from its four IDX files
  # val: 0.2                 # share for validation if the data has no such split
  views: {count: 4, pad: 2, flip: true}       # fixed, seeded views of each training image

teacher:
  name: fashion-resnet       # a shipped teacher, or a folder that 'nas-distill teach' wrote
  # builder: my_models:make_teacher           # your own: a function in my_models.py next to this file,
  # arguments: {width: 64}                    # its arguments,
  # weights: teacher.safetensors              # and its weights
  signal: store              # run the teacher once and store its logits; live runs it at every step

space: mbconv                # listed by 'nas-distill spaces'; or a file, or your own:
# space:
#   builder: my_models:build # called with the parameters by name
#   parameters:
#     width: [8, 16, 24]
#     depth: {int: [1, 4]}
#     kernel: {choice: [3, 5], when: {depth: [3, 4]}}

budget:                      # hard limits: candidates over a limit are never trained
  flops: 2M                  # multiply-adds per image; 10% is a tenth of the teacher's
  # params: 60k
  # weight_bytes: 256KiB
  # peak_activation_bytes: 128KiB
  # latency_ms: 0.5          # on latency.runtime, ONNX Runtime unless given

search:
  trials: 40                 # candidates to train
  workers: 2                 # in parallel
  sampler: known_cost        # known_cost, tpe, nsga2, random, package.module:name
  costs: [flops]             # costs that the front trades against quality
  pruning: {rule: dominance, margin: 0.04}   # or margin: auto, or rule: none

score:                       # the short distillation that ranks candidates
  epochs: 3
  rungs: [0.3333, 1]  # shares of it after which a candidate may be stopped

final:                       # the full distillation of the best
  epochs: 12
  count: 3
  baseline: true             # also train the best one on labels only, for comparison
  uniform: true              # also train the best network that needs no search, for comparison

# latency: {batch: 1, threads: 1, calibrate: 30}
"""


def write_template(path: Path) -> None:
    """Write the commented search file.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; give another name.")
    try:
        write_text(path, TEMPLATE)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error
