//! Chains, sets and rules as messages.

use super::expr::{Expr, Load, Register};
use super::{Element, Set, Table};
use crate::message::{ACK, APPEND, Batch, CREATE, DUMP, attribute, attributes, text};
use crate::socket::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const INET: u8 = 1;

/// A list of elements is an attribute, whose length has 16 bits.
const ELEMENTS_LENGTH: usize = 48 << 10;

/// `struct nfgenmsg`.
const fn header(family: u8, resource: u16) -> [u8; 4] {
    let [a, b] = resource.to_be_bytes();
    [family, 0, a, b]
}

const OURS: [u8; 4] = header(INET, 0);

pub(super) fn begin(b: &mut Batch) {
    b.message(0x10, 0, &header(0, 10));
}

pub(super) fn end(b: &mut Batch) {
    b.message(0x11, 0, &header(0, 10));
}

/// Kinds of a set's fields as the `nft` program numbers them, so that it can show them.
mod kind {
    pub(super) const ADDRESS4: u32 = 7;
    pub(super) const ADDRESS6: u32 = 8;
    pub(super) const PROTOCOL: u32 = 12;
    pub(super) const SERVICE: u32 = 13;
    pub(super) const INTERFACE: u32 = 41;
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    key: &'static [(u32, u32)],
    data: &'static [(u32, u32)],
}

const fn layout(key: &'static [(u32, u32)], data: &'static [(u32, u32)]) -> Layout {
    Layout { key, data }
}

const NAME: (u32, u32) = (kind::INTERFACE, 16);
const FOUR: (u32, u32) = (kind::ADDRESS4, 4);
const SIX: (u32, u32) = (kind::ADDRESS6, 16);
const PROTO: (u32, u32) = (kind::PROTOCOL, 1);
const PORT: (u32, u32) = (kind::SERVICE, 2);

/// Every set with its key and what it leads to.
pub(super) const SETS: [(Set, Layout); 20] = [
    (Set::Bridges, layout(&[NAME], &[])),
    (Set::Internal, layout(&[NAME], &[])),
    (Set::Same, layout(&[NAME, NAME], &[])),
    (Set::Hairpin, layout(&[NAME, NAME], &[])),
    (Set::Masquerade4, layout(&[NAME], &[])),
    (Set::Masquerade6, layout(&[NAME], &[])),
    (Set::Source4, layout(&[NAME], &[FOUR])),
    (Set::Source6, layout(&[NAME], &[SIX])),
    (Set::Routed4, layout(&[NAME], &[])),
    (Set::Routed6, layout(&[NAME], &[])),
    (Set::Open4, layout(&[NAME], &[])),
    (Set::Open6, layout(&[NAME], &[])),
    (Set::Direct4, layout(&[PROTO, FOUR, PORT], &[])),
    (Set::Direct6, layout(&[PROTO, SIX, PORT], &[])),
    (Set::Self4, layout(&[FOUR, FOUR], &[])),
    (Set::Self6, layout(&[SIX, SIX], &[])),
    (Set::Ports4, layout(&[PROTO, FOUR, PORT], &[FOUR, PORT])),
    (Set::Ports6, layout(&[PROTO, SIX, PORT], &[SIX, PORT])),
    (Set::Any4, layout(&[PROTO, PORT], &[FOUR, PORT])),
    (Set::Any6, layout(&[PROTO, PORT], &[SIX, PORT])),
];

impl Set {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::Internal => "internal",
            Self::Same => "same",
            Self::Hairpin => "hairpin",
            Self::Masquerade4 => "masq4",
            Self::Masquerade6 => "masq6",
            Self::Source4 => "snat4",
            Self::Source6 => "snat6",
            Self::Routed4 => "routed4",
            Self::Routed6 => "routed6",
            Self::Open4 => "open4",
            Self::Open6 => "open6",
            Self::Direct4 => "direct4",
            Self::Direct6 => "direct6",
            Self::Self4 => "self4",
            Self::Self6 => "self6",
            Self::Ports4 => "ports4",
            Self::Ports6 => "ports6",
            Self::Any4 => "any4",
            Self::Any6 => "any6",
        }
    }
}

/// Fields of a concatenation are padded to registers.
fn length(fields: &[(u32, u32)]) -> u32 {
    fields.iter().map(|(_, n)| n.next_multiple_of(4)).sum()
}

fn kinds(fields: &[(u32, u32)]) -> u32 {
    fields.iter().fold(0, |all, (kind, _)| all << 6 | kind)
}

/// A chain that hooks into the kernel's path of a packet.
pub(super) struct Base {
    pub(super) name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

/// Where a packet of a program's own gets another destination.
pub(super) const OUT: Base = Base {
    name: "out",
    kind: "nat",
    hook: 3,
    priority: -100,
};

const BASES: [Base; 5] = [
    Base {
        name: "guard",
        kind: "filter",
        hook: 0,
        priority: -300,
    },
    Base {
        name: "pre",
        kind: "nat",
        hook: 0,
        priority: -100,
    },
    OUT,
    Base {
        name: "forward",
        kind: "filter",
        hook: 2,
        priority: 0,
    },
    Base {
        name: "post",
        kind: "nat",
        hook: 4,
        priority: 100,
    },
];

const PUBLISH: &str = "publish";

pub(super) const R0: Register = Register(0);
const ESTABLISHED_OR_RELATED: u32 = 0b110;
const DNAT: u32 = 0b10_0000;
/// RTN_LOCAL.
const LOCAL: u32 = 2;
pub(super) const IPV4: u8 = 2;
const IPV6: u8 = 10;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Puts a key together in the registers from the first on.
fn key(parts: &[Load]) -> Vec<Expr> {
    let mut at = 0;
    parts
        .iter()
        .map(|part| {
            let load = Expr::Load(*part, Register(at));
            at += part.width();
            load
        })
        .collect()
}

fn within(parts: &[Load], set: &'static str) -> Vec<Expr> {
    let mut out = key(parts);
    out.push(Expr::In(R0, set));
    out
}

pub(super) fn family(number: u8) -> Vec<Expr> {
    vec![Expr::Load(Load::Family, R0), Expr::Equal(R0, vec![number])]
}

fn any_of(what: Load, bits: u32) -> Vec<Expr> {
    vec![
        Expr::Load(what, R0),
        Expr::Mask(R0, bits),
        Expr::Differs(R0, vec![0; 4]),
    ]
}

fn publish(six: bool, parts: &[Load], map: &'static str) -> Vec<Expr> {
    let mut out = family(if six { IPV6 } else { IPV4 });
    out.extend(key(parts));
    out.push(Expr::Map(R0, map, R0));
    out.push(Expr::Dnat {
        six,
        address: R0,
        port: Register(if six { 4 } else { 1 }),
    });
    out
}

fn rule(parts: &[Vec<Expr>], verdict: Expr) -> Vec<Expr> {
    let mut out = parts.concat();
    out.push(verdict);
    out
}

type Rule = (&'static str, Vec<Expr>);

fn loopback4(what: Load) -> Vec<Expr> {
    vec![
        Expr::Load(what, R0),
        Expr::Mask(R0, u32::from_ne_bytes([255, 0, 0, 0])),
        Expr::Equal(R0, vec![127, 0, 0, 0]),
    ]
}

fn from_member() -> Vec<Expr> {
    within(&[Load::InName], "bridges")
}

fn to_member() -> Vec<Expr> {
    within(&[Load::OutName], "bridges")
}

fn leaves() -> Vec<Expr> {
    vec![Expr::Load(Load::OutName, R0), Expr::NotIn(R0, "bridges")]
}

/// Every rule with its chain, in order.
pub(super) fn rules(table: &Table) -> Vec<Rule> {
    let guarded = [from_member(), family(IPV4), loopback4(Load::Daddr4)];
    let mut all = vec![("guard", rule(&guarded, Expr::Drop))];
    all.extend(to_ports(table.from_outside));
    all.extend(to_members());
    all.extend(sources());
    if table.only_ours {
        let foreign = vec![Expr::Load(Load::InName, R0), Expr::NotIn(R0, "bridges")];
        all.push(("forward", rule(&[foreign, leaves()], Expr::Drop)));
    }
    all
}

/// From an address of this host to what is published there.
fn to_ports(from_outside: bool) -> Vec<Rule> {
    use Load::{Daddr4, Daddr6, Dport, Protocol};
    let to_us = vec![
        Expr::Load(Load::DaddrType, R0),
        Expr::Equal(R0, LOCAL.to_ne_bytes().to_vec()),
    ];
    let jump = rule(&[to_us], Expr::Jump(PUBLISH));
    // the kernel takes no packet from ::1 to another interface: a socket of the shim's serves it
    let loopback6 = vec![
        Expr::Load(Daddr6, R0),
        Expr::Equal(R0, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
    ];
    let loopback6 = rule(&[family(IPV6), loopback6], Expr::Return);
    let mut all = vec![("out", jump.clone())];
    if from_outside {
        all.insert(0, ("pre", jump));
    }
    all.extend([
        (
            PUBLISH,
            publish(false, &[Protocol, Daddr4, Dport], "ports4"),
        ),
        (PUBLISH, publish(false, &[Protocol, Dport], "any4")),
        (PUBLISH, loopback6),
        (PUBLISH, publish(true, &[Protocol, Daddr6, Dport], "ports6")),
        (PUBLISH, publish(true, &[Protocol, Dport], "any6")),
    ]);
    all
}

/// Members of one network reach each other; an internal one leads nowhere; from elsewhere comes what
/// was asked for or goes to a published port.
fn to_members() -> Vec<Rule> {
    use Load::{CtState, CtStatus, Daddr4, Daddr6, Dport, InName, OutName, Protocol};
    let answers = any_of(CtState, ESTABLISHED_OR_RELATED);
    let published = any_of(CtStatus, DNAT);
    let ping = |number: u8| vec![Expr::Load(Protocol, R0), Expr::Equal(R0, vec![number])];
    let direct4 = within(&[Protocol, Daddr4, Dport], "direct4");
    let direct6 = within(&[Protocol, Daddr6, Dport], "direct6");
    let routed4 = vec![within(&[OutName], "routed4"), family(IPV4), ping(ICMP)];
    let routed6 = vec![within(&[OutName], "routed6"), family(IPV6), ping(ICMP6)];
    let chain = [
        (vec![within(&[InName, OutName], "same")], Expr::Accept),
        (vec![within(&[InName], "internal")], Expr::Drop),
        (vec![within(&[OutName], "internal")], Expr::Drop),
        (vec![to_member(), answers], Expr::Accept),
        (vec![to_member(), published], Expr::Accept),
        (vec![family(IPV4), to_member(), direct4], Expr::Accept),
        (vec![family(IPV6), to_member(), direct6], Expr::Accept),
        (routed4, Expr::Accept),
        (routed6, Expr::Accept),
        (
            vec![family(IPV4), within(&[OutName], "open4")],
            Expr::Accept,
        ),
        (
            vec![family(IPV6), within(&[OutName], "open6")],
            Expr::Accept,
        ),
        (vec![to_member()], Expr::Drop),
    ];
    let rules = chain.into_iter();
    rules
        .map(|(parts, verdict)| ("forward", rule(&parts, verdict)))
        .collect()
}

/// Whose source becomes the host's: what comes from 127.0.0.0/8, what a member sends to a published
/// port of its own network or of itself, and what leaves for the world.
fn sources() -> Vec<Rule> {
    use Load::{CtStatus, Daddr4, Daddr6, InName, OutName, Saddr4, Saddr6};
    let hairpin = within(&[InName, OutName], "hairpin");
    let chain = [
        vec![to_member(), family(IPV4), loopback4(Saddr4)],
        vec![hairpin, any_of(CtStatus, DNAT)],
        vec![family(IPV4), within(&[Saddr4, Daddr4], "self4")],
        vec![family(IPV6), within(&[Saddr6, Daddr6], "self6")],
        vec![family(IPV4), within(&[InName], "masq4"), leaves()],
        vec![family(IPV6), within(&[InName], "masq6"), leaves()],
    ];
    let rules = chain.into_iter();
    let mut all: Vec<Rule> = rules
        .map(|parts| ("post", rule(&parts, Expr::Masquerade)))
        .collect();
    for (six, number, map) in [(false, IPV4, "snat4"), (true, IPV6, "snat6")] {
        let mut to = key(&[InName]);
        to.push(Expr::Map(R0, map, R0));
        let parts = [family(number), leaves(), to];
        all.push(("post", rule(&parts, Expr::Snat { six, address: R0 })));
    }
    all
}

impl Table {
    pub(super) fn put_table(&self, b: &mut Batch) {
        b.message(NEW_TABLE, CREATE, &OURS);
        b.str(1, &self.name);
    }

    pub(super) fn delete_table(&self, b: &mut Batch) {
        b.message(DEL_TABLE, 0, &OURS);
        b.str(1, &self.name);
    }

    pub(super) fn put_chains(&self, b: &mut Batch) {
        b.message(NEW_CHAIN, CREATE, &OURS);
        b.str(1, &self.name).str(3, PUBLISH);
        for base in &BASES {
            self.put_base(b, base);
        }
    }

    pub(super) fn put_base(&self, b: &mut Batch, base: &Base) {
        b.message(NEW_CHAIN, CREATE, &OURS);
        b.str(1, &self.name).str(3, base.name).str(7, base.kind);
        b.nest(4, |b| {
            b.be32(1, base.hook).be32(2, base.priority.cast_unsigned());
        });
    }

    pub(super) fn put_sets(&self, b: &mut Batch) {
        const MAP: u32 = 8;
        for (id, (set, layout)) in (1..).zip(SETS) {
            b.message(NEW_SET, CREATE, &OURS);
            b.str(1, &self.name)
                .str(2, set.name())
                .be32(3, if layout.data.is_empty() { 0 } else { MAP })
                .be32(4, kinds(layout.key))
                .be32(5, length(layout.key))
                .be32(10, id);
            if layout.key.len() == 1 {
                // for the `nft` program alone: such a key is shown by the byte order that is noted
                b.bytes(13, &[0, 4, 1, 0, 0, 0]);
            }
            if !layout.data.is_empty() {
                b.be32(6, kinds(layout.data)).be32(7, length(layout.data));
            }
        }
    }

    pub(super) fn put_rules(&self, b: &mut Batch) {
        for (chain, expressions) in rules(self) {
            self.put_rule(b, chain, &expressions);
        }
    }

    pub(super) fn put_rule(&self, b: &mut Batch, chain: &str, expressions: &[Expr]) {
        b.message(NEW_RULE, CREATE | APPEND, &OURS);
        b.str(1, &self.name).str(2, chain).nest(4, |b| {
            for expression in expressions {
                expression.put(b);
            }
        });
    }

    /// Elements of one set go together, as far as one attribute holds them.
    pub(super) fn put_elements(&self, b: &mut Batch, add: bool, elements: &[Element]) {
        let mut sorted: Vec<&Element> = elements.iter().collect();
        sorted.sort();
        sorted.dedup();
        let mut rest = &sorted[..];
        while let Some(first) = rest.first() {
            let (kind, flags) = if add {
                (NEW_ELEMENT, CREATE)
            } else {
                (DEL_ELEMENT, 0)
            };
            b.message(kind, flags, &OURS);
            b.str(1, &self.name).str(2, first.set.name());
            let open = b.open(3);
            let mut taken = 0;
            for element in rest.iter().take_while(|e| e.set == first.set) {
                if b.length() > ELEMENTS_LENGTH {
                    break;
                }
                taken += 1;
                b.nest(1, |b| put_element(b, element));
            }
            b.close(open);
            rest = &rest[taken..];
        }
    }

    /// How many rules the kernel has of it.
    pub(super) fn count_rules(&self, socket: &Socket) -> Result<usize, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GET_RULE, DUMP, &OURS);
        batch.str(1, &self.name);
        let mut count = 0;
        socket.dump(&batch, &format!("list the rules of {}", self.name), |m| {
            let of = m.payload.get(4..).and_then(|p| attribute(p, 1));
            count += usize::from(of.map(text).as_deref() == Some(&self.name));
        })?;
        Ok(count)
    }

    pub(super) fn elements_of(
        &self,
        socket: &Socket,
        set: Set,
    ) -> Result<Vec<Element>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GET_ELEMENT, DUMP, &OURS);
        batch.str(1, &self.name).str(2, set.name());
        let mut all = Vec::new();
        let what = format!("list the set {} of {}", set.name(), self.name);
        socket.dump(&batch, &what, |m| {
            let list = m.payload.get(4..).and_then(|p| attribute(p, 3));
            for (_, element) in attributes(list.unwrap_or_default()) {
                let value = |kind| {
                    let data = attribute(element, kind)?;
                    Some(attribute(data, 1)?.to_vec())
                };
                all.push(Element {
                    set,
                    key: value(1).unwrap_or_default(),
                    data: value(2).unwrap_or_default(),
                });
            }
        })?;
        Ok(all)
    }
}

fn put_element(b: &mut Batch, element: &Element) {
    b.nest(1, |b| {
        b.bytes(1, &element.key);
    });
    if !element.data.is_empty() {
        b.nest(2, |b| {
            b.bytes(1, &element.data);
        });
    }
}

pub(super) fn names(socket: &Socket) -> Result<Vec<String>, NetlinkError> {
    let mut batch = Batch::default();
    batch.message(GET_TABLE, DUMP | ACK, &OURS);
    let mut all = Vec::new();
    socket.dump(&batch, "list the tables", |m| {
        let name = m.payload.get(4..).and_then(|p| attribute(p, 1));
        all.extend(name.map(text));
    })?;
    Ok(all)
}
