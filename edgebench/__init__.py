"""edgebench: proof, measured on real devices, of what a compressed network is worth."""

__version__ = "0.1.0"
