"""What a trained model is worth: figures of its logits, and the logits themselves."""
