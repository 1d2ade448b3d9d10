"""Where every call comes in: who makes it, whether there is room for it, who is told of it."""
