"""Capture and restore of processes: the CRIU driver, the page worker, goldens and fingerprints."""
