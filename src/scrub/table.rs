//! Finding the first of many byte strings in a text: Wu and Manber's table ("A fast algorithm for multi-pattern
//! searching", 1994), which moves on by about as many bytes as the shortest of them has.

/// How much is made ready before a text is searched.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// The longest window: moves are no longer than it.
    window: usize,
    /// Slots of the shift table, a power of two: the fewer are taken, the longer are the moves.
    slots: usize,
}

/// For the texts of one short answer: a small table is filled in less time than it saves.
pub(super) const BRIEF: Effort = Effort { window: 16, slots: 512 };

/// For streams: 4 KiB fit the first-level cache. A table entry is one byte, and longer moves would
/// gain nothing.
pub(super) const THOROUGH: Effort = Effort { window: 64, slots: 4096 };

/// How many stretches of a long text are searched in turn.
pub(super) const LANES: usize = 4;

/// The length of such a stretch. Long enough that the lanes' different ends cost little; short,
/// because what they have searched behind a match is searched again.
pub(super) const LANE: usize = 1024;

/// What is searched in one go behind the last match, so that a text full of them is not searched
/// over and over.
pub(super) const FIRST_STRETCH: usize = 512;

/// Over the first bytes of each string.
pub(super) struct Table {
    /// For a block of bytes, how far the window may move on. Bounded by the window.
    shift: Box<[u8]>,
    window: usize,
    /// The length of a block: three bytes, or less for tiny strings.
    block: usize,
    /// The length of the shortest string.
    shortest: usize,
}

impl Table {
    /// A table for strings of which none is shorter than `shortest`.
    pub(super) fn new<'s>(
        strings: impl Iterator<Item = &'s [u8]>,
        shortest: usize,
        effort: Effort,
    ) -> Self {
        let window = shortest.min(effort.window);
        let block = window.min(3);
        let furthest = u8::try_from(window - block + 1).unwrap_or(u8::MAX);
        let mut shift = vec![furthest; effort.slots].into_boxed_slice();
        for string in strings {
            for (at, bytes) in string[..window].windows(block).enumerate() {
                let slot = &mut shift[hash(bytes) & (effort.slots - 1)];
                *slot = (*slot).min(u8::try_from(window - block - at).unwrap_or(0));
            }
        }
        Self { shift, window, block, shortest }
    }

    /// The first place at `from` or behind it where one of the strings stands, and what `here` says of it: all
    /// others it is not asked about, and may say no to.
    pub(super) fn find<T>(
        &self,
        text: &[u8],
        mut from: usize,
        here: &impl Fn(usize) -> Option<T>,
    ) -> Option<(usize, T)> {
        let mut until = from + FIRST_STRETCH;
        loop {
            let found = self.find_before(until, text, from, here);
            if found.is_some() || until >= text.len() {
                return found;
            }
            from = self.skip(text, until, here);
            until = from + LANES * LANE;
        }
    }

    /// The first match at or after `from` that starts before `until`.
    fn find_before<T>(
        &self,
        until: usize,
        text: &[u8],
        from: usize,
        here: &impl Fn(usize) -> Option<T>,
    ) -> Option<(usize, T)> {
        let mut window = from;
        // No string is shorter than the shortest, so none starts in the last bytes.
        while window < until && text.len().saturating_sub(window) >= self.shortest {
            let shift = self.shift(text, window);
            if shift > 0 {
                window += shift;
                continue;
            }
            if let Some(found) = here(window) {
                return Some((window, found));
            }
            window += 1;
        }
        None
    }

    /// Moves on from `from` to a place before which no match starts: near the next match, or near
    /// the end of the text. Each look at the table waits for the one before it in the same lane, and
    /// no longer, so that a few lanes keep the processor busy where one would leave it waiting.
    fn skip<T>(&self, text: &[u8], mut from: usize, here: &impl Fn(usize) -> Option<T>) -> usize {
        while text.len().saturating_sub(from) >= LANES * LANE + self.shortest {
            let ends: [usize; LANES] = std::array::from_fn(|lane| from + (lane + 1) * LANE);
            let mut at = ends.map(|end| end - LANE);
            while at.iter().zip(&ends).all(|(at, end)| at < end) {
                for at in &mut at {
                    *at += match self.shift(text, *at) {
                        0 if here(*at).is_some() => return from,
                        shift => shift.max(1),
                    };
                }
            }
            // The lanes come to their ends one after another.
            let rest = |(at, end)| self.find_before(end, text, at, here).is_some();
            if at.into_iter().zip(ends).any(rest) {
                return from;
            }
            from += LANES * LANE;
        }
        from
    }

    /// How far a window at `at` may move on; not at all where the text may match.
    fn shift(&self, text: &[u8], at: usize) -> usize {
        let end = at + self.window;
        let slot = hash(&text[end - self.block..end]) & (self.shift.len() - 1);
        usize::from(self.shift[slot])
    }
}

/// Mixes a block of one to three bytes (Knuth's multiplicative hash; the upper half is the better
/// one).
fn hash(block: &[u8]) -> usize {
    let number = match *block {
        [a, b, c] => u32::from_le_bytes([a, b, c, 0]),
        [a, b] => u32::from_le_bytes([a, b, 0, 0]),
        [a] => u32::from(a),
        _ => 0,
    };
    (number.wrapping_mul(0x9E37_79B1) >> 16) as usize
}
