//! An allocator for tests that ends the process when a child allocates between clone and execve.
//!
//! Such a child is a copy of one thread: if another held the allocator's lock at that moment, the
//! child waits for it forever. A test binary makes [`Tripwire`] its global allocator; the child
//! calls [`forbid`] first, which changes its own copy of the flag only.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// The exit code of a process that allocated although it must not.
pub const EXIT_CODE: i32 = 86;

/// From here on this process must not allocate, nor free.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

fn check() {
    if FORBIDDEN.load(Ordering::Relaxed) {
        crate::process::exit(EXIT_CODE);
    }
}

/// The system's allocator, watched.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tripwire;

// SAFETY: every call goes to the system's allocator unchanged, or doesn't return.
unsafe impl GlobalAlloc for Tripwire {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promises about the layout are System's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        check();
        // SAFETY: `at` came from System with this layout, since nothing else allocates here.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: as for dealloc; the caller promises a size that isn't zero.
        unsafe { System.realloc(at, layout, size) }
    }
}
