"""A process whose memory is checked while it is being filled: run as ``torture.py RESULT SEED``.

Prepares blocks of known content, writes RESULT.ready and waits for RESULT.go. Then threads do at
once: checksum untouched blocks; throw pages away and rewrite some; move blocks with mremap; unmap;
fork a child that checks everything it inherited. RESULT gets "ok N" or what was wrong.
"""

import ctypes
import hashlib
import mmap
import os
import sys
import threading
import time

PAGE, BLOCK, BLOCKS = 4096, 4 << 20, 24
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int]
libc.mmap.argtypes.append(ctypes.c_long)
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def page_content(seed, block, page):
    return hashlib.sha256(b"%d %d %d" % (seed, block, page)).digest() * (PAGE // 32)


def allocate():
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return libc.mmap(None, BLOCK, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)


def view(address, length):
    return memoryview((ctypes.c_char * length).from_address(address)).cast("B")


class Torture:
    def __init__(self, seed):
        self.seed = seed
        self.blocks = [allocate() for _ in range(BLOCKS)]
        for number, address in enumerate(self.blocks):
            whole = b"".join(page_content(seed, number, p) for p in range(BLOCK // PAGE))
            view(address, BLOCK)[:] = whole
        self.wrong = []
        self.checked = 0

    def expect(self, what, number, page, address, content=None):
        wanted = page_content(self.seed, number, page) if content is None else content
        if bytes(view(address, PAGE)) != wanted:
            self.wrong.append(f"{what} block {number} page {page}")
        self.checked += 1

    def check_block(self, what, number, address, step=1):
        for page in range(0, BLOCK // PAGE, step):
            self.expect(what, number, page, address + page * PAGE)

    def forward(self):
        for number in range(8):
            self.check_block("forward", number, self.blocks[number])

    def rewrite(self):
        for number in range(8, 12):
            address = self.blocks[number]
            for page in range(0, BLOCK // PAGE, 4):
                at = address + page * PAGE
                libc.madvise(at, 2 * PAGE, mmap.MADV_DONTNEED)
                view(at, PAGE)[:8] = b"written!"
                self.expect("rewritten", number, page, at, b"written!" + bytes(PAGE - 8))
                self.expect("thrown away", number, page + 1, at + PAGE, bytes(PAGE))
                self.expect("kept", number, page + 2, at + 2 * PAGE)

    def move(self):
        for number in range(12, 18):
            target = allocate()
            # MREMAP_MAYMOVE | MREMAP_FIXED, half by half so that ranges are split.
            half = BLOCK // 2
            for part in (half, 0):
                libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
                libc.mremap.argtypes += [ctypes.c_int, ctypes.c_void_p]
                libc.mremap(self.blocks[number] + part, half, half, 3, target + part)
            self.check_block("moved", number, target, step=3)

    def unmap(self):
        for number in range(18, 21):
            address = self.blocks[number]
            libc.munmap(address, BLOCK // 2)
            for page in range(BLOCK // PAGE // 2, BLOCK // PAGE, 2):
                self.expect("not unmapped", number, page, address + page * PAGE)

    def fork(self):
        for number in range(21, 24):
            child = os.fork()
            if child == 0:
                self.wrong = []
                self.check_block("child's", number, self.blocks[number])
                os._exit(1 if self.wrong else 0)
            self.check_block("parent's", number, self.blocks[number], step=2)
            _, status = os.waitpid(child, 0)
            if status:
                self.wrong.append(f"child of block {number} ended with {status}")


def main():
    result, seed = sys.argv[1], int(sys.argv[2])
    torture = Torture(seed)
    open(result + ".ready", "w").close()
    while not os.path.exists(result + ".go"):
        time.sleep(0.005)  # frozen and restored here, and alone: no other module is to be had
    doings = (torture.forward, torture.rewrite, torture.move, torture.unmap, torture.fork)
    threads = [threading.Thread(target=doing) for doing in doings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(result + ".part", "w") as file:
        file.write("; ".join(torture.wrong[:5]) or f"ok {torture.checked}")
    os.rename(result + ".part", result)


main()
