"""Losses for transformers: on tokens, and on the queries, keys and values of torch.nn.MultiheadAttention."""
