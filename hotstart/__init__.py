"""What every part of Hotstart shares: core words, the kernel, the store."""
