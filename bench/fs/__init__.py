"""The scenario ``fs``: how fast files are read through a mount, beside what people use today."""
