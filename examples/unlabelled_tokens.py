"""Compress a Hugging Face classifier with unlabelled token ids: its own answers are the target.

The model is small and made from a config, so that nothing is downloaded; a local folder works as well.
"""

import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

import nas_distill as nd

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    num_labels=3,
    initializer_range=0.5,
)
bert = BertForSequenceClassification(config)
ids = torch.randint(0, 100, (400, 16))
mask = torch.ones_like(ids)

if __name__ == "__main__":
    data = nd.Dataset.unlabelled({"input_ids": ids, "attention_mask": mask})
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/unlabelled_tokens")
    run = nd.search(teacher=bert, data=data, space="from_teacher", budget={"flops": "50%"}, trials=8, folder=folder)
    print(run.student().evaluate().accuracy)  # agreement with the teacher
    print(run.student().export(folder / "student.onnx")["usage"])  # int64 inputs by name
