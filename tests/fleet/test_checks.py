import pytest
from fleet.bfloat16 import emulates_bfloat16


@pytest.mark.parametrize(
    ("line", "emulates"),
    [
        ("flags : fpu avx512f avx512_bf16 avx512vbmi", False),  # Zen 4
        ("flags : avx512f amx_bf16 amx_tile", False),  # Sapphire Rapids
        ("Features : fp asimd i8mm bf16 dgh", False),  # Neoverse V1
        ("flags : fpu avx2 avx512f avx512_vnni", True),  # Cascade Lake
        ("flags : fpu sse avx2 fma", True),
        ("Features : fp asimd svebf16x", True),  # no such flag, but part of one
    ],
)
def test_instructions_are_read_from_the_kernels_list(tmp_path, line, emulates):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert emulates_bfloat16(tmp_path / "cpuinfo") == emulates


def test_without_a_list_nothing_is_claimed(tmp_path):
    assert not emulates_bfloat16(tmp_path / "missing")
