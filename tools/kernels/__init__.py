"""``make test-kernels``: tests of lazy mounts under Debian's own kernels, in QEMU."""
