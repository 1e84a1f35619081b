"""Students assembled of blocks that were distilled one by one."""
