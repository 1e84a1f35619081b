"""Cost and quality of the peers of mutual learning, for the page of benchmarks/losses.py."""

from __future__ import annotations

from typing import Any

from common import ratios, spread, table
from losses_cases import KD, STRATEGIES, STUDENT
from losses_mutual import peer_key
from losses_rows import SHOWN, flops
from losses_train import Trainings


def peers_text() -> str:
    return """Peers have the architectures of that name in the table of teachers, first weights of their own, and as
many epochs as the student, on the same batches. Each network is taught by the labels, and by the shipped teacher and
the others' averaged weights as one mixture, all alike. A step trains every network, and each answers for every other.
Test and agreement are of the peer itself: mean (lowest to highest) over seeds."""


def peers_table(trainings: Trainings) -> str:
    cells = []
    for strategy in STRATEGIES:
        for peer in strategy.peers:
            found = [
                trainings.tested(peer_key(key, peer))
                for key in (f"{strategy.name}-seed{place}" for place in range(trainings.seeds))
                if trainings.finished(key)
            ]
            figures = [spread([getattr(test, name) for test in found]) for name in ("accuracy", "agreement") if found]
            cells.append([f"`{strategy.name}`", SHOWN[peer], f"{flops(peer, trainings):.2f}", *(figures or ["-", "-"])])
    return table(["strategy", "peer", "M FLOPs", "test", "agreement"], cells)


def peers_said(times: dict[str, Any], trainings: Trainings) -> str:
    told = []
    for strategy in STRATEGIES:
        if strategy.peers:
            ratio = ratios(times["rounds"], strategy.name, KD).text(1)
            all_flops = sum(flops(name, trainings) for name in (STUDENT, *strategy.peers))
            told.append(
                f"`{strategy.name}`: a step of all its networks takes {ratio} times as long as the student's by kd; "
                f"together they have {all_flops / flops(STUDENT, trainings):.1f} times its FLOPs."
            )
    return " ".join(told)
