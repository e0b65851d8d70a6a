"""Seeds that depend on their purpose and on nothing else."""

import hashlib
import json


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive the seed for one purpose, the same on every machine and in every version.

    Args:
        seed: the experiment's seed.
        purpose: what the numbers are for, such as `"epoch", 3`.

    Returns:
        63 bits of SHA-256, of which torch's CPU generator keeps the low 32.
    """
    parts = json.dumps([seed, *purpose])  # unlike a joined string, tells ("a", 1) from ("a1",)
    return int.from_bytes(hashlib.sha256(parts.encode()).digest()[:8], "big") >> 1
