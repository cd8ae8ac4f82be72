//! Networks of containers, by netlink alone: no program is executed.
//!
//! ```text
//! plan      ipam      which subnet, which address            pure
//!           nft       elements of a network, of a port       pure
//!           names     of kernel objects, derived             pure
//! apply     host      bridges, pairs of links, the table
//!           netns     namespaces
//!           ports     sockets that keep a port of the host
//!           resolver  sockets of a container's name server
//! observe   route     links, addresses, routes
//!           nft       the table's elements
//!           watch     what others do to the table and to routes
//! ```
//!
//! Kernel objects belong to processes where they can: a pair of links goes with the container's
//! namespace, and that with its last process and descriptor. Bridges and the table outlive us; they
//! carry the instance in their name or group, so that reconcile finds them: it computes what should
//! be and replaces what is, the table in one transaction.
//!
//! Everything here blocks, but for no longer than the kernel takes; nothing waits for a network.

pub mod addr;
pub mod host;
pub mod ipam;
mod message;
pub mod names;
pub mod netns;
pub mod nft;
pub mod ports;
pub mod resolver;
pub mod route;
pub mod socket;
pub mod watch;

pub use addr::{Mac, Prefix};
pub use host::{Endpoint, HostError, Joint};
pub use names::Instance;
pub use netns::Namespace;
pub use nft::{Element, Protocol, Publication, Segment, Table, Ways};
pub use route::{Above, Bridge, IpvlanFlag, IpvlanMode, MacvlanMode};
pub use watch::{RouteWatch, Watch};
