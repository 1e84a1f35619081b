"""What people read of a run: tables, pictures, cards, the live view. Reads a run, writes none of its state."""
