"""One leased device: its session with the probe, what is pushed to it, what comes back."""
