"""Metrics of trained models, their confidence intervals, and prediction over batches."""
