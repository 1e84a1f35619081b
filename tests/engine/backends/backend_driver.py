"""A search in a process of its own, for tests that kill, interrupt and listen to it.

Arguments: a folder, the work's acts with commas between, and options as JSON for the backend. Ends with code 0 when
the outcomes are written to ``outcomes.json``; SIGINT and SIGTERM ask the source to stop, SIGUSR2 leaves at once as a
second Ctrl-C does, with code 3.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]

from backend_toys import Actor, Script, make_work  # noqa: E402

from nas_distill.engine.backends.tune import TuneBackend  # noqa: E402


def main(folder: Path, acts: list[str], options: dict[str, Any]) -> None:
    def note_pid(script: Script, event: tuple[Any, ...]) -> None:
        if event[0] == "report":
            pid = int(script.results[event[1]][-1].metrics["pid"])
            with (folder / "pids.txt").open("a") as stream:
                stream.write(f"{pid}\n")

    script = Script([make_work(folder, f"w{i}", act) for i, act in enumerate(acts)], on_event=note_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: script.stop())
    signal.signal(signal.SIGUSR2, leave)
    try:
        TuneBackend(folder=folder / "run", **{"workers": 2, **options}).run(script, Actor())
    except KeyboardInterrupt:
        sys.exit(3)
    finally:
        outcomes = {key: [outcome.kind, outcome.cause] for key, outcome in script.outcomes.items()}
        (folder / "outcomes.json").write_text(json.dumps(outcomes))


def leave(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
