"""Built-in builders: functions from architecture parameters to torch modules."""
