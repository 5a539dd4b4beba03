"""Is the path worth it: the same recipe without it, with only its warm start, and with the whole of it."""
