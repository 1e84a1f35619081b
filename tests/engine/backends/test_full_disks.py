"""Real file systems that fill up beneath Ray: shared memory, and the folder of temporary files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DRIVER = """
import json, os, sys
from pathlib import Path
folder, full = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[:0] = sys.argv[3:]
from backend_toys import Actor, Script, make_work
from nas_distill.utils.errors import StorageError
from nas_distill.engine.backends.tune import TuneBackend

def fill(script, event):
    if event == ("finish", "w0", "complete"):
        filler = os.open(full / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(filler, bytes(65536))
        except OSError:
            os.close(filler)

works = [make_work(folder, "w0"), make_work(folder, "w1", "kill once"), make_work(folder, "w2")]
script, said = Script(works, on_event=fill), ""
try:
    TuneBackend(workers=1, folder=folder / "run").run(script, Actor())
except StorageError as error:
    said = str(error)
(full / "filler").unlink()
again = Script(works[1:])
TuneBackend(workers=1, folder=folder / "run").run(again, Actor())
print(json.dumps({"said": said, "first": script.kinds(), "again": again.kinds()}))
"""


@pytest.mark.parametrize("place", ["/dev/shm", "temporary"])
def test_a_worker_that_dies_on_a_full_disk_fails_no_work(tmp_path: Path, place: str) -> None:
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("file systems cannot be mounted here: it takes root, and unshare")
    full = Path(place) if place.startswith("/") else Path("/tmp") / f"nd-full-{os.getpid()}"
    full.mkdir(exist_ok=True)  # sockets lie below it: their paths must be short
    try:
        mounted = [unshare, "-m", "mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(full)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        command = [
            sys.executable,
            "-c",
            DRIVER,
            str(tmp_path),
            str(full),
            str(Path(__file__).parents[3]),
            str(Path(__file__).parent),
        ]
        # In a mount namespace of its own, so that nobody else's shared memory is full.
        done = subprocess.run(
            [*(unshare, "-m", "sh", "-c", f'mount -t tmpfs -o size=96m tmpfs "{full}" && exec "$0" "$@"'), *command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ if place.startswith("/") else {**os.environ, "TMPDIR": str(full)},
        )
    finally:
        if not place.startswith("/"):
            full.rmdir()
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert f"the disk of {full} is full" in found["said"]
    assert found["first"] == {"w0": "complete", "w1": "interrupted"}
    assert found["again"] == {"w1": "complete", "w2": "complete"}
