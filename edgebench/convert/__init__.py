"""Variant -> artifact, one file or package per runtime; every converter runs in a process of its own."""
