"""Charts as SVG text, written by edgebench itself: no library, colours by class, numbers beside."""
