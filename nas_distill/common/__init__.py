"""What every room stands on: errors, seeds, references to user code, atomic files."""
