//! Knobs of the C library's allocator.

/// Keeps the heap of a long-lived, mostly idle process small: few arenas, and what is freed at the
/// top goes back to the kernel early. Does nothing where the C library has no such knobs.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (knob, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_TRIM_THRESHOLD, 256 * 1024),
        (libc::M_MMAP_THRESHOLD, 128 * 1024),
    ] {
        // SAFETY: mallopt takes two integers and locks the allocator itself.
        let _ = unsafe { libc::mallopt(knob, value) };
    }
}

/// Gives free memory back to the kernel; for the moment after a burst (start, a big load).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and locks the allocator itself.
    let _ = unsafe { libc::malloc_trim(0) };
}
