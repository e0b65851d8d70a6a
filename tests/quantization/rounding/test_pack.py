import pytest
import torch

from quantization.rounding.pack import pack, unpack


def codes_of(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


@pytest.mark.parametrize("levels", [256, 16, 8, 4, 3])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8, 9, 27, 64, 143])
def test_round_trip_in_as_many_bytes_as_needed(rng, levels, columns):
    codes = torch.randint(levels, (6, columns), generator=rng, dtype=torch.uint8)
    packed = pack(codes, levels)
    fit, into = {256: (1, 1), 16: (2, 1), 8: (8, 3), 4: (4, 1), 3: (5, 1)}[levels]
    assert packed.shape == (6, -(-columns * into // fit))
    assert torch.equal(unpack(packed, columns, levels), codes)


@pytest.mark.parametrize(
    ("levels", "codes", "packed"),
    [
        (256, [7, 255], [7, 255]),
        (16, [1, 2, 15], [0x21, 0x0F]),
        (8, [1, 2, 3, 7], [0b11_010_001, 0b0000_111_0]),  # 3 = 0b011 straddles the bytes
        (4, [0, 1, 2, 3, 3], [0b11_10_01_00, 0b11]),
        (3, [0, 1, 2, 1, 2, 2], [0 + 3 + 2 * 9 + 27 + 2 * 81, 2]),
        (3, [2] * 5, [242]),
    ],
)
def test_bytes_by_hand(levels, codes, packed):
    assert pack(codes_of(codes, codes), levels).tolist() == [packed, packed]


@pytest.mark.parametrize("levels", [16, 8, 4])
def test_bit_stream_matches_one_big_integer(rng, levels):
    codes = torch.randint(levels, (1, 37), generator=rng, dtype=torch.uint8)
    stream = sum(code * levels**i for i, code in enumerate(codes[0].tolist()))
    assert bytes(pack(codes, levels)[0].tolist()) == stream.to_bytes(
        pack(codes, levels).shape[1], "little"
    )


@pytest.mark.parametrize("levels", [16, 8, 4, 3])
def test_codes_that_would_spill_into_their_neighbours_are_refused(levels):
    with pytest.raises(ValueError, match=f"Codes must be below {levels}.* got {levels}"):
        pack(codes_of([0, levels]), levels)
