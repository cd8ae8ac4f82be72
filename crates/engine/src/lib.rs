//! The domain: containers, images, volumes; one actor per container; events; reconcile at start.

pub mod model;
