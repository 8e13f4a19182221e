"""The man pages, written from what the programs themselves are: their commands, settings and sample files."""
