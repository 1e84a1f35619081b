"""Students cut from Hugging Face models: what is found, and that cut models run, train, are counted and exported."""

import copy

import pytest
import torch

from nas_distill.costs import count
from nas_distill.costs.runtimes.onnx_runtime import export_onnx
from nas_distill.export.parity import verify_export
from nas_distill.pruning.plan import Cut
from nas_distill.pruning.surgery import prune
from tests.pruning.hugging_face import KINDS, inputs, make, planned

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
