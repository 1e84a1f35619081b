"""Execute the notebooks here and keep their outputs, so that these are of the run that is kept.

python notebooks/execute.py
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).parent


def execute(path: Path) -> NotebookNode:
    """Return a notebook with the outputs of a fresh execution, free of times and versions.

    Raises:
        CellExecutionError: a cell fails.
        RuntimeError: a cell warns.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets in the file system: a port would be open to everybody on the machine.
        config = Config({"KernelManager": {"transport": "ipc", "ip": str(Path(sockets) / "kernel")}})
        resources = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, config=config, resources=resources, record_timing=False, timeout=300).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path}, cell {cell.id}: {output.text}")
    return notebook


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(path)
