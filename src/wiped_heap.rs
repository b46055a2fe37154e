//! A heap whose blocks are wiped when they are freed.
//!
//! Values pass through buffers that are not ours: hyper's and reqwest's, serde_json's scratch
//! space, vectors that move while they grow. None of these wipes itself, and all of them are on the
//! heap. So no copy outlives its buffer, in any program that uses this library.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

struct WipedHeap<A>(A);

#[global_allocator]
static HEAP: WipedHeap<System> = WipedHeap(System);

/// `realloc` stays the trait's own, which takes a new block and frees the old one: an allocator's
/// may move a block and leave the old one as it is.
// SAFETY: every call is handed on, with the layout that the caller gave.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipedHeap<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is as large as its layout, and the caller's until it is freed.
        unsafe {
            block.write_bytes(0, layout.size());
            // Or else the compiler leaves the writes out, since nobody reads them.
            self.0.dealloc(black_box(block), layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts the bytes of freed blocks that are not zero.
    struct Inspector(AtomicUsize);

    // SAFETY: as above.
    unsafe impl GlobalAlloc for Inspector {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as the caller promises.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is as large as its layout and was written by the test.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            let left = bytes.iter().filter(|byte| **byte != 0).count();
            self.0.fetch_add(left, Ordering::Relaxed);
            // SAFETY: as the caller promises.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn a_block_is_wiped_when_it_is_freed_and_when_it_grows() {
        let heap = WipedHeap(Inspector(AtomicUsize::new(0)));
        let layout = Layout::array::<u8>(4096).unwrap();
        // SAFETY: each block is used with its own layout, and not after it was freed.
        unsafe {
            let block = heap.alloc(layout);
            block.write_bytes(b'x', layout.size());
            let larger = heap.realloc(block, layout, 8192);
            assert_eq!(*larger.add(4095), b'x');
            larger.write_bytes(b'x', 8192);
            heap.dealloc(larger, Layout::array::<u8>(8192).unwrap());
        }
        assert_eq!(heap.0.0.load(Ordering::Relaxed), 0);
    }
}
