"""One file per revision; the numbers rise."""
