"""The embedding server that the benchmark measures, and the root file system that it lives in."""
