"""The commands. Only this floor (and the service) prints, parses flags or exits."""
