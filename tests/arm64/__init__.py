"""A true aarch64 Debian userland over SSH: the real wheels for Arm through edgebench's own path."""
