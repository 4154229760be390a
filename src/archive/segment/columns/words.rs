//! Fixed-width values as planes of bytes: the lowest bytes of all values, then the next ones.

/// Values of up to eight bytes, as numbers. Their width is `WIDTH` bytes, the bits above are zero.
pub(super) fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// The difference to the value before, its sign in the lowest bit: small where values grow or shrink by little.
pub(super) fn zigzag(value: u64, before: u64, width: usize) -> u64 {
    let shift = 64 - 8 * width;
    let difference = (value.wrapping_sub(before) << shift).cast_signed();
    ((difference << 1) ^ (difference >> 63)).cast_unsigned() >> shift
}

/// The value whose [`zigzag`] against `before` is this.
pub(super) fn unzigzag(zigzag: u64, before: u64, width: usize) -> u64 {
    let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
    before.wrapping_add(difference) & mask(width)
}

/// Turns a square of eight by eight bytes around its diagonal.
fn turn(mut square: [u64; 8]) -> [u64; 8] {
    const HALVES: [(usize, u64); 3] =
        [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)];
    for (step, low) in HALVES {
        let bits = 8 * step;
        for at in 0..8 {
            if at & step == 0 {
                let swapped = ((square[at] >> bits) ^ square[at + step]) & low;
                square[at] ^= swapped << bits;
                square[at + step] ^= swapped;
            }
        }
    }
    square
}

/// Appends the `width` planes of the values, the lowest bytes first.
pub(super) fn put_planes(values: &[u64], width: usize, out: &mut Vec<u8>) {
    let (before, count) = (out.len(), values.len());
    out.resize(before + count * width, 0);
    let planes = &mut out[before..];
    let (squares, rest) = values.as_chunks::<8>();
    for (at, square) in squares.iter().enumerate() {
        for (plane, bytes) in turn(*square).into_iter().take(width).enumerate() {
            let at = plane * count + at * 8;
            planes[at..at + 8].copy_from_slice(&bytes.to_le_bytes());
        }
    }
    for (at, value) in rest.iter().enumerate() {
        for (plane, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
            planes[plane * count + squares.len() * 8 + at] = byte;
        }
    }
}

/// The values whose planes these are: as many as `planes` has bytes for.
pub(super) fn take_planes(planes: &[u8], width: usize, values: &mut Vec<u64>) {
    let count = planes.len() / width;
    values.clear();
    values.resize(count, 0);
    let (squares, rest) = values.as_chunks_mut::<8>();
    for (at, square) in squares.iter_mut().enumerate() {
        let mut turned = [0; 8];
        for (plane, bytes) in turned.iter_mut().take(width).enumerate() {
            let at = plane * count + at * 8;
            let mut eight = [0; 8];
            eight.copy_from_slice(&planes[at..at + 8]);
            *bytes = u64::from_le_bytes(eight);
        }
        *square = turn(turned);
    }
    let done = squares.len() * 8;
    for (at, value) in rest.iter_mut().enumerate() {
        for plane in (0..width).rev() {
            *value = *value << 8 | u64::from(planes[plane * count + done + at]);
        }
    }
}
