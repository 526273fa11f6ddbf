"""The tutorial: it was executed when it was committed, and says the same when it is executed now."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def output_of(cell: Any) -> str:
    """What a cell put out, as a terminal shows it."""
    words = [out.get("text") or out.get("data", {}).get("text/plain") or "" for out in cell["outputs"]]
    return "\n".join("".join(each) for each in words)


def check(cells: list[Any]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error" or out.get("name") == "stderr"]
    by_end = {"".join(cell["source"]).splitlines()[-1]: cell for cell in code}
    assert output_of(by_end["nearest.round(1)"]).splitlines()[1].startswith("demo_faces ")
    strays = "['stray_digit_00', 'stray_texture_00', 'stray_texture_01']"
    assert output_of(by_end["sorted(Path(name).stem for name in strays)"]) == strays
    assert output_of(by_end["union.images, union.ledger.skipped"]) == "(124, {})"
    for shows_itself in ("matrix", "faces", "pair"):
        html = "".join(by_end[shows_itself]["outputs"][0]["data"]["text/html"])
        assert "data:image/png;base64," in html
        assert len(html) < 200_000
    assert "['faces.png', 'matrix.svg', 'pair.png']" in [output_of(cell) for cell in code]


def test_it_was_executed_and_is_small() -> None:
    text = NOTEBOOK.read_text()
    check(json.loads(text)["cells"])
    assert len(text) < 1_000_000
    for place in (str(Path.home()), "/tmp/", "site-packages", str(ROOT)):
        assert place not in text


@pytest.mark.timeout(1200)
def test_it_runs_from_images_to_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat

    with warnings.catch_warnings():  # of the kernel's client, none of which are ours to mend
        warnings.simplefilter("ignore")
        from nbclient import NotebookClient

        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # its sockets' names must be short
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        notebook = nbformat.read(NOTEBOOK, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check(notebook.cells)
    assert not (ROOT / "mine").exists()
