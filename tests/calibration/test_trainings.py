"""The table of trainings: appended trainings are read back, incomplete ones are dropped."""

import math
from dataclasses import replace

import pytest

from nas_distill.calibration.trainings import Reading, TrainingTable
from nas_distill.utils.errors import RunError

ONE = Reading("n-00", 1e6, 2e3, "full", 0, 1 / 3, 1.0, 5, 0.5, math.nan, 12.5, 3.25)


def training(network):
    return [replace(ONE, network=network), replace(ONE, network=network, epochs=1.0, quality=0.75)]


@pytest.fixture
def path(tmp_path):
    table = TrainingTable(tmp_path / "t.csv")
    table.append(training("n-00"))
    table.append([replace(ONE, network="n-01", cause="it said: a, b\nand c")])
    return table.path


def test_appended_trainings_are_read_back(path):
    table = TrainingTable(path)
    assert ("n-00", "full", 0) in table
    assert ("n-01", "full", 0) in table
    assert ("n-02", "full", 0) not in table
    first, last, failed = table.readings
    assert (first.epochs, first.of, first.seconds, last.quality) == (0.3333333, 1.0, 3.25, 0.75)
    assert math.isnan(first.last)
    assert failed.cause == "it said: a, b and c"


def test_appended_readings_equal_those_read_back(path):
    table = TrainingTable(path)
    table.append(training("n-02"))
    assert [str(entry) for entry in table.readings] == [str(entry) for entry in TrainingTable(path).readings]


@pytest.mark.parametrize("cut", range(1, 100, 7))
def test_a_truncated_file_loses_only_its_last_training(path, cut):
    table = TrainingTable(path)
    before = len(table.readings)
    table.append(training("n-02"))
    path.write_bytes(path.read_bytes()[:-cut])
    mended = TrainingTable(path)
    assert len(mended.readings) == before
    assert ("n-02", "full", 0) not in mended
    mended.append(training("n-02"))
    assert len(TrainingTable(path).readings) == before + 2


def test_a_file_truncated_in_its_header_is_created_again(path):
    path.write_text("network,flo")
    assert TrainingTable(path).readings == []
    assert path.read_text().startswith("network,flops,")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "\n", "network,flops\n"])
def test_another_file_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(RunError, match="not a table of trainings"):
        TrainingTable(path)


def test_a_damaged_line_is_named(path):
    path.write_text(path.read_text().replace("n-00,1000000", "n-00,many"))
    with pytest.raises(RunError, match="line 2 is not"):
        TrainingTable(path)


def test_an_unfinished_training_cannot_be_added(path):
    with pytest.raises(ValueError, match="finished"):
        TrainingTable(path).append(training("n-02")[:1])
