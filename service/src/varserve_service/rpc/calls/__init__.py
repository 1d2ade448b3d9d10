"""One call: who makes it, what it may do, what is known of it, and how many there may be."""
