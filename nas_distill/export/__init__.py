"""Export of students: folders, ``torch.export`` graphs, and verification of exported files."""
