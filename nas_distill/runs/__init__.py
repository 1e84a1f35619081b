"""Run folders: journal, trial records, metadata, identity and Pareto front."""
