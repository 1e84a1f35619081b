"""Files for commands that start something: the search file of ``init``, the teacher of ``teach``."""

from __future__ import annotations

from pathlib import Path

from nas_distill.utils.errors import ConfigError
from nas_distill.utils.files import write_text

TEMPLATE = """\
# A search for nas-distill. Look before you train:  nas-distill search THIS_FILE --dry-run
seed: 0

data:
  name: fashion-mnist        # fashion-mnist, digits, a .npz file, or package.module:function
  # root: /usr/share/datasets/fashion-mnist   # the whole set, from its four IDX files
  # val: 0.2                 # share split off for validation where the data brings none
  views: {count: 4, pad: 2, flip: true}       # fixed, seeded views of each training image

teacher:
  name: fashion-resnet       # a shipped one, or a folder that 'nas-distill teach' wrote
  # builder: my_models:make_teacher           # your own: a function in my_models.py beside this file,
  # arguments: {width: 64}                    # its arguments,
  # weights: teacher.safetensors              # and its weights
  signal: store              # run the teacher once and keep its logits; live runs it at every step

space: mbconv                # 'nas-distill spaces' lists them; or a file, or your own:
# space:
#   builder: my_models:build # called with the parameters by name
#   parameters:
#     width: [8, 16, 24]
#     depth: {int: [1, 4]}
#     kernel: {choice: [3, 5], when: {depth: [3, 4]}}

budget:                      # hard limits: a candidate over one of them is never trained
  flops: 2M                  # multiply-adds of one image; 10% means a tenth of the teacher's
  # params: 60k
  # weight_bytes: 256KiB
  # peak_activation_bytes: 128KiB
  # latency_ms: 0.5          # on latency.runtime, ONNX Runtime unless given

search:
  trials: 40                 # candidates to train
  workers: 2                 # at a time
  sampler: tpe               # tpe, nsga2, random, package.module:name
  costs: [flops]             # what the front trades against quality
  pruning: {rule: dominance, margin: 0.04}   # or margin: auto, or rule: none

score:                       # the short distillation that ranks candidates
  epochs: 3
  rungs: [0.3333, 1]  # shares of it after which a candidate may be stopped

final:                       # the full distillation of the best
  epochs: 12
  count: 3
  baseline: true             # also train the winner on labels alone, to compare

# latency: {batch: 1, threads: 1, calibrate: 30}
"""


def write_template(path: Path) -> None:
    """Write the commented search file.

    Raises:
        ConfigError: there is a file of that name, or it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already; give another name, it is not overwritten.")
    try:
        write_text(path, TEMPLATE)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error
