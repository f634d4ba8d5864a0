from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import sys
import numpy as np
from service.embedding.memory import keep_large_blocks_apart, return_freed_memory

def resident() -> int:
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024

keep_large_blocks_apart()
np.ones(int(sys.argv[1]), np.uint8)  # by its end glibc learns to keep blocks of this size
before = resident()
size = int(sys.argv[1])
blocks = []
for _ in range(200 * 2**20 // size):
    blocks.append(np.ones(size, np.uint8))
    blocks.append(np.ones(2000, np.uint8))
held = resident()
small = blocks[1::2]
del blocks
if size < 2**20:
    return_freed_memory()
print(before, held, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("size", [100_000, 8 * 2**20])
def test_freed_memory_goes_back_although_small_blocks_stay(size: int) -> None:
    command = [sys.executable, "-c", ALLOCATE, str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, held, after = map(int, done.stdout.split())
    assert held - before > 180
    assert after - before < 20, "MB"
