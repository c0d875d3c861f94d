//! Maps of header fields, used again.
//!
//! A map of a dozen fields is more than the allocator keeps at hand for a thread, so each would be a search
//! among the free blocks of all. Used again, it is also still in the processor's cache.

use std::cell::RefCell;

use http::HeaderMap;

/// Fields that a map has room for: of a request by an SDK, and what is put in for it.
const FIELDS: usize = 24;

/// A map that once grew beyond this is not kept.
const MOST: usize = 4 * FIELDS;

/// Maps kept for each thread. It serves one request at a time; others are under way meanwhile.
const KEPT: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map, with room for so many fields.
pub(super) fn empty_fields(count: usize) -> HeaderMap {
    let spare = SPARE.with_borrow_mut(Vec::pop).filter(|map| map.capacity() >= count);
    spare.unwrap_or_else(|| HeaderMap::with_capacity(count.max(FIELDS)))
}

/// Takes a map back whose fields nobody needs any more.
pub fn done_with(mut fields: HeaderMap) {
    // What repeats a name lies beside, and is not in the capacity.
    if !(FIELDS..=MOST).contains(&fields.capacity()) || fields.len() > MOST {
        return;
    }
    fields.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(fields);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_map_comes_back_empty_and_only_of_a_useful_size() {
        let mut map = empty_fields(3);
        map.append("x-a", HeaderValue::from_static("1"));
        map.append("x-a", HeaderValue::from_static("2"));
        done_with(map);
        done_with(HeaderMap::new());
        done_with(HeaderMap::with_capacity(10_000));
        let mut long = HeaderMap::with_capacity(FIELDS);
        for _ in 0..=MOST {
            long.append("x-a", HeaderValue::from_static("1"));
        }
        done_with(long);
        assert_eq!(SPARE.with_borrow(Vec::len), 1);
        let map = empty_fields(20);
        assert!(map.is_empty() && map.get("x-a").is_none());
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        assert!(empty_fields(1000).capacity() >= 1000);
        for _ in 0..2 * KEPT {
            done_with(HeaderMap::with_capacity(FIELDS));
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
