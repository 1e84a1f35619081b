"""Students cut from Hugging Face models: what is found, and that cut models run, train, are counted and exported."""

import copy

import pytest
import torch
from torch.nn import functional

import nas_distill as nd
from nas_distill.costs import count
from nas_distill.costs.runtimes.onnx_runtime import export_onnx
from nas_distill.data import Dataset
from nas_distill.export.parity import verify_export
from nas_distill.pruning.inheritance import pruned_teacher
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.reconstruction import input_moments
from nas_distill.pruning.slots import weights_of
from nas_distill.pruning.surgery import prune
from tests.pruning.hugging_face import CLASSES, KINDS, WORDS, inputs, make, planned

GROUPED = ("llama", "llama_tied", "llama_classes", "qwen2", "qwen3", "mistral", "gemma")
TIED = {
    "masked": ("bert.embeddings.word_embeddings", "cls.predictions.decoder"),
    "gpt2": ("transformer.wte", "lm_head"),
    "llama_tied": ("model.embed_tokens", "lm_head"),
}


def half(kind, drop=()):
    module, plan = planned(kind)
    cut = Cut.of(plan, {group.name: group.size // 2 for group in plan.groups}, dict.fromkeys(drop, "drop"))
    return prune(copy.deepcopy(module), plan, cut.units(plan))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_neurons_the_width_and_layers_are_found(kind):
    _, plan = planned(kind)
    heads = 2 if kind in GROUPED else 4
    neurons = 128 if kind.startswith("gpt2") else 48
    for block in (0, 1):
        assert [(group.kind, group.size) for group in plan.inner(block)] == [("heads", heads), ("neurons", neurons)]
    assert ("channels", 32) in [(group.kind, group.size) for group in plan.shared]
    assert [block.droppable for block in plan.blocks] == [True, True]
    assert plan.unpruned == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_runs_and_costs_less(kind):
    module, _ = planned(kind)
    student, x = half(kind), inputs(kind)
    logits = student(x)
    assert logits.shape == module(x).shape
    whole = copy.deepcopy(module)
    for output in (logits, whole(x)):
        output.square().sum().backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == [
        name for name, weight in whole.named_parameters() if weight.grad is None
    ]
    before, after = (count(one, KINDS[kind][3], ["flops", "params"]) for one in (module, student))
    assert after["flops"] < 0.6 * before["flops"]
    assert after["params"] < 0.6 * before["params"]
    assert count(half(kind, drop=[1]), KINDS[kind][3], ["flops"])["flops"] < after["flops"]


@pytest.mark.parametrize("kind", TIED)
def test_tied_weights_stay_tied(kind):
    student = half(kind)
    one, other = (student.model.get_submodule(name) for name in TIED[kind])
    assert one.weight is other.weight
    assert one.weight.shape[1] == 16


def test_a_key_head_is_kept_with_all_of_its_query_heads():
    attention = half("llama").model.model.layers[0].self_attn
    assert attention.q_proj.out_features == attention.o_proj.in_features == 16
    assert attention.k_proj.out_features == attention.v_proj.out_features == 8
    whole = planned("llama")[0].model.model.layers[0].self_attn
    assert torch.equal(attention.q_proj.weight, whole.q_proj.weight[:16, :16])


def test_fused_projections_keep_queries_keys_and_values_of_the_kept_heads():
    module, plan = planned("gpt2")
    group = plan.inner(0)[0]
    student = prune(copy.deepcopy(module), plan, Cut.of(plan, {group.name: 1}).units(plan, {group.name: (2, 0, 1, 3)}))
    cut, whole = (one.model.transformer.h[0].attn for one in (student, module))
    rows = [start + index for start in (0, 32, 64) for index in range(16, 24)]
    assert torch.equal(cut.c_attn.weight, whole.c_attn.weight[:, rows])
    assert torch.equal(cut.c_proj.weight, whole.c_proj.weight[16:24])
    assert (cut.num_heads, cut.split_size, cut.c_attn.nf, cut.c_proj.nx) == (1, 8, 24, 8)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_finding_a_plan_does_not_change_the_model(kind):
    module, x = make(kind), inputs(kind)
    planned(kind)
    assert torch.equal(module(x), planned(kind)[0](x))
    assert not any("forward" in vars(part) for part in planned(kind)[0].modules())


@pytest.mark.parametrize("kind", ["distilbert", "vit", "whisper", "gpt2_classes", "llama_classes"])
def test_a_cut_model_is_exported(kind, tmp_path):
    student = half(kind, drop=[1]).eval()
    path = export_onnx(student, KINDS[kind][3], tmp_path / "student.onnx")
    verify_export(path, student, inputs(kind))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_reconstruction_brings_a_cut_model_closer_to_the_whole_one(kind):
    """Of two equal neurons one is removed; the layer that reads both makes up for it."""
    module, plan = make(kind), planned(kind)[1]
    group = plan.inner(0)[1]
    (reads,) = [slot.module for slot in group.slots if slot.side == "in"]
    with torch.no_grad():
        for slot in (slot for slot in group.slots if slot.side == "out"):
            for weight, axis in weights_of(module, slot):
                whole = weight.movedim(axis, 0)
                whole[group.size // 2 :] = whole[: group.size // 2]
    cut = Cut.of(plan, {group.name: group.size // 2})
    data = Dataset.from_tensors(inputs(kind, 64), torch.arange(64) % CLASSES)
    moments = {reads: input_moments(module, plan, data, 48)[reads]}
    orders = {group.name: tuple(range(group.size))}
    x = inputs(kind)
    plain, rebuilt = (pruned_teacher(module, plan, cut, orders, given)(x) for given in ({}, moments))
    wanted = module(x)
    assert (rebuilt - wanted).norm() < 0.1 * (plain - wanted).norm()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2_classes", "llama_classes"])
def test_a_search_over_students_of_a_model(kind, tmp_path):
    x, teacher = inputs(kind, 200), make(kind)
    y = (x[:, 0] * CLASSES / WORDS).long()
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    run = nd.search(
        teacher=teacher.eval(),
        data=Dataset.from_tensors(x, y, test=0.2),
        space={"from_teacher": {"multiple": 2, "samples": 64}},
        budget={"flops": "50%"},
        folder=tmp_path / "run",
        trials=2,
        seeds=2,
        backend="inline",
        score={"epochs": 1, "batch_size": 32},
        final={"epochs": 1, "batch_size": 32, "count": 1},
        latency={"calibrate": 0, "repeats": 5},
        quiet=True,
    )
    assert run.unpruned().empty
    before = count(teacher, KINDS[kind][3], ["flops"])["flops"]
    student = run.student()
    assert count(student.module, KINDS[kind][3], ["flops"])["flops"] <= before / 2
    assert torch.equal(student.load().eval()(x[:2]), student.module.eval()(x[:2]))
    assert student.export(tmp_path / "student.onnx")
