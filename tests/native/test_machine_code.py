"""What the compiler made of the kernels, read back from the module: prefetches are instructions, not hints it may drop.

GCC 12 deletes all of them if a helper that only prefetches is not inlined, and no answer changes.
"""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from flashmoe import _native
from flashmoe._native import Cpu

PRODUCTS = {"avx2": r"vpmaddubsw .*%ymm", "avx512": r"vpdpbusd .*%zmm"}
"""The instruction that multiplies codes with activations, by instruction set."""
NEAR = 100
"""Instructions: a loop over one row unrolled."""


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    if not set(PRODUCTS) & set(Cpu.available_isas()):
        pytest.skip("not an x86 processor")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--no-addresses", _native.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("isa", sorted(PRODUCTS))
def test_products_of_every_width_prefetch_their_codes(instructions: list[str], isa: str) -> None:
    products = [i for i, line in enumerate(instructions) if re.search(PRODUCTS[isa], line)]
    prefetches = [i for i, line in enumerate(instructions) if "prefetcht1" in line]
    served = [i for i in prefetches if any(abs(i - j) <= NEAR for j in products)]
    loops = 1 + sum(later - earlier > NEAR for earlier, later in pairwise(served)) if served else 0
    assert loops >= 3  # codes of 2, 4 and 8 bits
