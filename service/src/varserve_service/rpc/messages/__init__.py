"""Messages into the core's words and back; bodies in and out. Knows no calls."""
