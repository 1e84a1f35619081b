"""Provenance records, and those derived for students of earlier versions."""

from pathlib import Path

import pytest

from nas_distill.export.provenance import Provenance, read_provenance
from nas_distill.utils.errors import ExportError

FILE = Path("students/t00001/architecture.json")


def test_a_record_survives_a_round_trip():
    record = Provenance(kind="mutual", key="t00001-a", trial="t00001", students=("t00002-a",), quality=0.5, data="ab")
    assert read_provenance({"provenance": record.model_dump(mode="json")}, FILE) == record


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kind": "best", "key": "a", "trial": "a"}, "'kind'"),
        ({"kind": "final", "trial": "a"}, "'key' is missing"),
        ({"kind": "final", "key": "a", "trial": "a", "author": "me"}, "unknown key 'author'"),
        ({"kind": "final", "key": "a", "trial": "a", "quality": float("nan")}, "'quality'"),
        (["final"], "provenance"),
    ],
)
def test_an_invalid_record_is_refused(content, said):
    with pytest.raises(ExportError, match=rf"architecture\.json: provenance: .*{said}|{said}"):
        read_provenance({"provenance": content}, FILE)


@pytest.mark.parametrize(
    ("metadata", "kind", "trial"),
    [
        ({"key": "t00004"}, "final", "t00004"),
        ({"key": "t00004-30-epochs"}, "final", "t00004"),
        ({"key": "t00004-labels", "taught": False}, "labels", "t00004"),
        ({"key": "t00004-4-epochs-front-7"}, "assisted", "t00004"),
        ({"key": "t00004-4-epochs-self-first"}, "reborn", "t00004"),
        ({"key": "t00004-together-0a1b", "together_with": [3]}, "mutual", "t00004"),
        (
            {"key": "t00004-4-epochs-front-7-updated-0a1b", "updated_from": "t00004-4-epochs-front-7"},
            "updated",
            "t00004",
        ),
    ],
)
def test_provenance_of_earlier_versions_is_derived_from_metadata(metadata, kind, trial):
    earlier = {"validation_accuracy": 0.9, "taught": True, "seed": 1, "epochs": 10.0}
    found = read_provenance({"metadata": {**earlier, **metadata}}, FILE)
    assert (found.kind, found.trial, found.quality) == (kind, trial, 0.9)


@pytest.mark.parametrize("metadata", [None, {}, {"key": "t00001", "taught": True}, {"validation_accuracy": 1}])
def test_a_student_without_provenance_is_refused(metadata):
    with pytest.raises(ExportError, match="has no provenance"):
        read_provenance({"metadata": metadata}, FILE)
