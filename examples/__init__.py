"""Examples that run: small networks, their data, and three scenarios of compression, each one command."""
