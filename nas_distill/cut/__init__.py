"""Students cut from the teacher: what can be cut, cutting it, and the space of such students."""
