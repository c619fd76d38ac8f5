"""From a plan to finished jobs: which cells, on which devices, in which order."""
