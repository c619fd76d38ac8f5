"""Small networks of the kinds that people bring to edge devices; the project's own, for pictures."""
