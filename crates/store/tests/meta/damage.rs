//! Damaged files and other versions.
