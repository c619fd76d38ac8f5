"""One file per runtime. A module may have a runtime's own name: imports are absolute and find the real."""
