"""Small Hugging Face models of the common kinds, from configs; nothing is downloaded."""

import os
import warnings
from functools import cache

import pytest
import torch
from torch import nn

from nas_distill.pruning.discovery import find_plan

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5.0")  # a folder of tests has the same name

CLASSES, WORDS, TOKENS = 5, 50, 6

_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": WORDS,
    "max_position_embeddings": 16,
    "num_labels": CLASSES,
    "pad_token_id": 0,
}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": WORDS, "n_positions": 16, "num_labels": CLASSES}
_GPT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_VIT = {"image_size": 8, "patch_size": 4, **{key: _BERT[key] for key in list(_BERT)[:4]}, "num_labels": CLASSES}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": WORDS, "num_labels": CLASSES}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "vocab_size": WORDS,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "classifier_proj_size": 16,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}

KINDS = {
    "bert": ("BertForSequenceClassification", "BertConfig", _BERT, (TOKENS,)),
    "masked": ("BertForMaskedLM", "BertConfig", _BERT, (TOKENS,)),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _BERT, (TOKENS,)),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", _DISTILBERT, (TOKENS,)),
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT, (3, 8, 8)),
    "whisper": ("WhisperForAudioClassification", "WhisperConfig", _WHISPER, (8, 20)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT, (TOKENS,)),
    "gpt2_classes": ("GPT2ForSequenceClassification", "GPT2Config", _GPT, (TOKENS,)),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, (TOKENS,)),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "tie_word_embeddings": True}, (TOKENS,)),
    "llama_classes": ("LlamaForSequenceClassification", "LlamaConfig", _LLAMA, (TOKENS,)),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, (TOKENS,)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_LLAMA, "head_dim": 8}, (TOKENS,)),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_LLAMA, "head_dim": 8}, (TOKENS,)),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_LLAMA, "head_dim": 8}, (TOKENS,)),
}


class Logits(nn.Module):
    """Returns the logits of a Hugging Face model."""

    def __init__(self, kind):
        super().__init__()
        model, config, values, shape = KINDS[kind]
        self.whole = len(shape) == 1
        self.model = getattr(transformers, model)(getattr(transformers, config)(**values))

    def forward(self, x):
        return self.model(x.long() if self.whole else x).logits


def make(kind):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return Logits(kind).eval()


@cache
def planned(kind):
    """Return a model and its plan; neither may be changed."""
    module = make(kind)
    return module, find_plan(module, KINDS[kind][3])


def inputs(kind, count=2):
    shape, generator = KINDS[kind][3], torch.Generator().manual_seed(0)
    if len(shape) > 1:
        return torch.randn(count, *shape, generator=generator)
    return torch.randint(1, WORDS, (count, *shape), generator=generator).float()
