//! Images from archives and back, on the real file system. Needs root: owners, devices, trusted
//! attributes; a test that can't have them fails and says so.

mod faults;
mod formats;
mod gnu;
mod hostile;
mod kit;
mod layers;
mod paths;
mod random;
mod steps;
