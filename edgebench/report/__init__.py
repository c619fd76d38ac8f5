"""Reports: rows -> report record -> text. Pure: what is shown, and how, but never where it goes."""
