"""Messages into the core's types and back; bodies in and out."""
