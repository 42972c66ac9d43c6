"""`hotstart` on the command line: one module per command, results on stdout, talk on stderr."""
