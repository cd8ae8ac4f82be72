//! One nftables table of ours per instance. Its rules never change: what a network or a container
//! adds are elements of its sets and maps, so a start costs the same whatever is there already.
//!
//! ```text
//! table inet plimsoll-<instance>
//!   bridges   interface               all bridges of ours
//!   internal  interface               those that lead nowhere
//!   same      interface . interface   (bridge, bridge) where members may talk to each other
//!   hairpin   interface . interface   (bridge, bridge)
//!   masq4 masq6                       bridges whose members leave with the host's address
//!   snat4 snat6   interface -> address   with this one instead
//!   routed4 routed6  interface        whose members have no ports of the host: they answer pings
//!   open4 open6   interface           whose members are reached at every port by who has a route
//!   direct4 direct6  protocol . address . port   a member's own that is reached so
//!   self4 self6   address . address   a member that calls itself by a port it published
//!   ports4 ports6    protocol . host address . port -> address . port
//!   any4   any6      protocol . port                -> address . port
//!
//!   guard    before all    from a bridge to 127.0.0.0/8: drop, since route_localnet lets it in
//!   pre, out nat           to an address of this host: by ports4, any4...
//!   forward  filter        what may reach a member, see `rules`
//!   post     nat           whose source is changed
//! ```
//! An `accept` here ends this table's chain alone: what the host's own firewall drops in its forward
//! chain stays dropped. A reload of that firewall leaves this table alone, unless it flushes
//! everything: that is watched for, see [`watch`](crate::watch).

mod expr;
mod local;
mod table;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub(crate) use local::redirect;

use crate::message::{ACK, Batch};
use crate::socket::{NetlinkError, Socket};

/// What a network means to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub bridge: String,
    pub internal: bool,
    /// Members may talk to each other.
    pub icc: bool,
    pub four: Ways,
    pub six: Ways,
}

/// How a network's members and the world reach each other, in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    /// Members leave with an address of the host.
    pub masquerade: bool,
    /// Which one; absent: that of the interface they leave by.
    pub source: Option<IpAddr>,
    /// Members are reached at their own addresses, at the ports that they publish.
    pub routed: bool,
    /// At their own addresses, at every port.
    pub open: bool,
}

/// What carries a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of the host that leads to a container.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Publication {
    pub protocol: Protocol,
    /// Unspecified: every address of the host of this family.
    pub host: IpAddr,
    /// 0: none of the host's; the container's is reached at its own address.
    pub port: u16,
    pub to: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    Bridges,
    Internal,
    Same,
    Hairpin,
    Masquerade4,
    Masquerade6,
    Source4,
    Source6,
    Routed4,
    Routed6,
    Open4,
    Open6,
    Direct4,
    Direct6,
    Self4,
    Self6,
    Ports4,
    Ports6,
    Any4,
    Any6,
}

/// One element of one set, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub(crate) set: Set,
    pub(crate) key: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Element {
    /// What there is at most one of.
    #[must_use]
    pub fn into_key(self) -> Self {
        Self {
            data: Vec::new(),
            ..self
        }
    }
}

fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

impl Segment {
    #[must_use]
    pub fn elements(&self) -> Vec<Element> {
        let name = interface(&self.bridge).to_vec();
        let pair = [name.clone(), name.clone()].concat();
        let mut out = Vec::with_capacity(5);
        let mut add = |wanted: bool, set: Set, key: &Vec<u8>| {
            if wanted {
                out.push(Element {
                    set,
                    key: key.clone(),
                    data: Vec::new(),
                });
            }
        };
        add(true, Set::Bridges, &name);
        add(self.internal, Set::Internal, &name);
        add(self.icc, Set::Same, &pair);
        add(true, Set::Hairpin, &pair);
        let four = (self.four, Set::Masquerade4, Set::Routed4, Set::Open4);
        let six = (self.six, Set::Masquerade6, Set::Routed6, Set::Open6);
        for (ways, masquerade, routed, open) in [four, six] {
            add(ways.masquerade && ways.source.is_none(), masquerade, &name);
            add(ways.routed, routed, &name);
            add(ways.open, open, &name);
        }
        for (ways, set) in [(self.four, Set::Source4), (self.six, Set::Source6)] {
            if let (true, Some(source)) = (ways.masquerade, ways.source) {
                out.push(Element {
                    set,
                    key: name.clone(),
                    data: octets(source),
                });
            }
        }
        out
    }
}

impl Publication {
    #[must_use]
    pub fn elements(&self) -> Vec<Element> {
        let four = self.to.is_ipv4();
        let pick = |a, b| if four { a } else { b };
        let mut key = vec![self.protocol.number(), 0, 0, 0];
        if self.port == 0 {
            key.extend(octets(self.to.ip()));
            key.extend(port(self.to.port()));
            return vec![Element {
                set: pick(Set::Direct4, Set::Direct6),
                key,
                data: Vec::new(),
            }];
        }
        let set = if self.host.is_unspecified() {
            pick(Set::Any4, Set::Any6)
        } else {
            key.extend(octets(self.host));
            pick(Set::Ports4, Set::Ports6)
        };
        key.extend(port(self.port));
        let to = octets(self.to.ip());
        vec![
            Element {
                set,
                key,
                data: [&to[..], &port(self.to.port())].concat(),
            },
            Element {
                set: pick(Set::Self4, Set::Self6),
                key: [&to[..], &to[..]].concat(),
                data: Vec::new(),
            },
        ]
    }
}

/// The table of an instance, as it should be and as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(crate) name: String,
    /// Forwarding was off before us: between interfaces that are not ours nothing is forwarded.
    pub only_ours: bool,
    /// What comes from elsewhere is led to published ports before the host's input rules see it;
    /// else it is for sockets of the host, as any other.
    pub from_outside: bool,
}

impl Table {
    #[must_use]
    pub fn new(name: &str, only_ours: bool) -> Self {
        Self {
            name: name.to_owned(),
            only_ours,
            from_outside: true,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn transaction(&self, what: &str, fill: impl FnOnce(&mut Batch)) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        table::begin(&mut batch);
        fill(&mut batch);
        batch.flag(ACK);
        table::end(&mut batch);
        Socket::netfilter()?.run(
            &batch,
            &format!("{what} (nftables, table inet {})", self.name),
        )
    }

    /// The whole table, new, in the place of what is there: one transaction, between whose before
    /// and after no packet sees anything else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace(&self, elements: &[Element]) -> Result<(), NetlinkError> {
        self.transaction("replace the table", |b| {
            self.put_table(b);
            self.delete_table(b);
            self.put_table(b);
            self.put_chains(b);
            self.put_sets(b);
            self.put_rules(b);
            self.put_elements(b, true, elements);
        })
    }

    /// # Errors
    /// The kernel refuses: an element is there already with another meaning, or the table is gone.
    pub fn add(&self, elements: &[Element]) -> Result<(), NetlinkError> {
        if elements.is_empty() {
            return Ok(());
        }
        self.transaction("add to the table", |b| self.put_elements(b, true, elements))
    }

    /// # Errors
    /// The kernel refuses: one is not there.
    pub fn remove(&self, elements: &[Element]) -> Result<(), NetlinkError> {
        if elements.is_empty() {
            return Ok(());
        }
        self.transaction("take from the table", |b| {
            self.put_elements(b, false, elements);
        })
    }

    /// Takes the table away; there need be none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete(&self) -> Result<(), NetlinkError> {
        self.transaction("delete the table", |b| {
            self.put_table(b);
            self.delete_table(b);
        })
    }

    /// What the kernel has in it; absent where there is no such table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn observe(&self) -> Result<Option<Vec<Element>>, NetlinkError> {
        let socket = Socket::netfilter()?;
        if !table::names(&socket)?.contains(&self.name) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (set, _) in table::SETS {
            all.extend(self.elements_of(&socket, set)?);
        }
        all.sort();
        Ok(Some(all))
    }

    /// Whether the kernel has the rules and these elements, no more and no less.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn is_intact(&self, elements: &[Element]) -> Result<bool, NetlinkError> {
        let mut wanted = elements.to_vec();
        wanted.sort();
        wanted.dedup();
        if self.observe()?.is_none_or(|have| have != wanted) {
            return Ok(false);
        }
        let rules = self.count_rules(&Socket::netfilter()?)?;
        Ok(rules == table::rules(self).len())
    }

    /// Names of all inet tables of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn names() -> Result<Vec<String>, NetlinkError> {
        table::names(&Socket::netfilter()?)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |b: &[u8]| crate::route::ip(b).map_or_else(String::new, |a| a.to_string());
        let number = |b: &[u8]| u16::from_be_bytes([b[0], b[1]]);
        write!(f, "{} ", self.set.name())?;
        let split = |b: &[u8], at: usize| (b[..at].to_vec(), b[at..].to_vec());
        match self.set {
            Set::Bridges
            | Set::Internal
            | Set::Masquerade4
            | Set::Masquerade6
            | Set::Routed4
            | Set::Routed6
            | Set::Open4
            | Set::Open6 => f.write_str(&crate::message::text(&self.key)),
            Set::Source4 | Set::Source6 => {
                let name = crate::message::text(&self.key);
                write!(f, "{name} : {}", address(&self.data))
            }
            Set::Direct4 | Set::Direct6 => {
                let (protocol, rest) = split(&self.key, 4);
                let (to, to_port) = split(&rest, rest.len() - 4);
                let (to, to_port) = (address(&to), number(&to_port));
                write!(f, "{} . {to} . {to_port}", protocol[0])
            }
            Set::Same | Set::Hairpin => {
                let (a, b) = split(&self.key, 16);
                write!(
                    f,
                    "{} . {}",
                    crate::message::text(&a),
                    crate::message::text(&b)
                )
            }
            Set::Self4 | Set::Self6 => {
                let (a, b) = split(&self.key, self.key.len() / 2);
                write!(f, "{} . {}", address(&a), address(&b))
            }
            Set::Ports4 | Set::Ports6 | Set::Any4 | Set::Any6 => {
                let (protocol, rest) = split(&self.key, 4);
                let (host, key_port) = split(&rest, rest.len() - 4);
                let (to, to_port) = split(&self.data, self.data.len().saturating_sub(4));
                write!(f, "{} . ", protocol[0])?;
                if !host.is_empty() {
                    write!(f, "{} . ", address(&host))?;
                }
                write!(
                    f,
                    "{} : {} . {}",
                    number(&key_port),
                    address(&to),
                    number(&to_port)
                )
            }
        }
    }
}
