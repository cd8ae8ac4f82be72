//! The expressions that our rules are made of.
//!
//! source: linux/netfilter/nf_tables.h

use crate::message::Batch;

/// Registers of 4 bytes; a value longer than that takes those that follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Register(pub(super) u32);

const FIRST: u32 = 8;

/// What a packet is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    InName,
    OutName,
    Family,
    Protocol,
    Saddr4,
    Daddr4,
    Saddr6,
    Daddr6,
    /// Of TCP, UDP and SCTP alike.
    Dport,
    CtState,
    CtStatus,
    /// What kind of address the destination is to this host.
    DaddrType,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Load(Load, Register),
    Mask(Register, u32),
    Equal(Register, Vec<u8>),
    Differs(Register, Vec<u8>),
    In(Register, &'static str),
    NotIn(Register, &'static str),
    /// Looks the key up and puts what it leads to at the second register.
    Map(Register, &'static str, Register),
    /// Puts a value there.
    Value(Register, Vec<u8>),
    /// To the address and port at these registers.
    Dnat {
        six: bool,
        address: Register,
        port: Register,
    },
    /// From the address at this register.
    Snat {
        six: bool,
        address: Register,
    },
    Masquerade,
    Accept,
    Drop,
    /// Back to the chain that jumped here.
    Return,
    Jump(&'static str),
}

impl Load {
    /// Registers it fills.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::InName | Self::OutName | Self::Saddr6 | Self::Daddr6 => 4,
            _ => 1,
        }
    }

    fn put(self, b: &mut Batch, to: Register) {
        let register = FIRST + to.0;
        match self {
            Self::InName => meta(b, 6, register),
            Self::OutName => meta(b, 7, register),
            Self::Family => meta(b, 15, register),
            Self::Protocol => meta(b, 16, register),
            Self::Saddr4 => payload(b, register, 1, 12, 4),
            Self::Daddr4 => payload(b, register, 1, 16, 4),
            Self::Saddr6 => payload(b, register, 1, 8, 16),
            Self::Daddr6 => payload(b, register, 1, 24, 16),
            Self::Dport => payload(b, register, 2, 2, 2),
            Self::CtState => conntrack(b, 0, register),
            Self::CtStatus => conntrack(b, 2, register),
            Self::DaddrType => named(b, "fib", |b| {
                b.be32(1, register).be32(2, 3).be32(3, 2);
            }),
        }
    }
}

fn named(b: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    b.nest(1, |b| {
        b.str(1, name).nest(2, fill);
    });
}

fn meta(b: &mut Batch, key: u32, register: u32) {
    named(b, "meta", |b| {
        b.be32(2, key).be32(1, register);
    });
}

fn conntrack(b: &mut Batch, key: u32, register: u32) {
    named(b, "ct", |b| {
        b.be32(1, register).be32(2, key);
    });
}

fn payload(b: &mut Batch, register: u32, base: u32, offset: u32, length: u32) {
    named(b, "payload", |b| {
        b.be32(1, register)
            .be32(2, base)
            .be32(3, offset)
            .be32(4, length);
    });
}

fn compare(b: &mut Batch, register: Register, operation: u32, value: &[u8]) {
    named(b, "cmp", |b| {
        b.be32(1, FIRST + register.0)
            .be32(2, operation)
            .nest(3, |b| {
                b.bytes(1, value);
            });
    });
}

fn lookup(b: &mut Batch, register: Register, set: &str, to: Option<Register>, inverted: bool) {
    named(b, "lookup", |b| {
        b.str(1, set).be32(2, FIRST + register.0);
        if let Some(to) = to {
            b.be32(3, FIRST + to.0);
        }
        if inverted {
            b.be32(5, 1);
        }
    });
}

fn verdict(b: &mut Batch, code: i32, chain: Option<&str>) {
    named(b, "immediate", |b| {
        b.be32(1, 0).nest(2, |b| {
            b.nest(2, |b| {
                b.be32(1, code.cast_unsigned());
                if let Some(chain) = chain {
                    b.str(2, chain);
                }
            });
        });
    });
}

impl Expr {
    pub(super) fn put(&self, b: &mut Batch) {
        match self {
            Self::Load(what, to) => what.put(b, *to),
            Self::Mask(register, mask) => named(b, "bitwise", |b| {
                let register = FIRST + register.0;
                b.be32(1, register).be32(2, register).be32(3, 4);
                b.nest(4, |b| {
                    b.bytes(1, &mask.to_ne_bytes());
                });
                b.nest(5, |b| {
                    b.bytes(1, &[0; 4]);
                });
            }),
            Self::Equal(register, value) => compare(b, *register, 0, value),
            Self::Differs(register, value) => compare(b, *register, 1, value),
            Self::In(register, set) => lookup(b, *register, set, None, false),
            Self::NotIn(register, set) => lookup(b, *register, set, None, true),
            Self::Map(register, map, to) => lookup(b, *register, map, Some(*to), false),
            Self::Dnat { six, address, port } => named(b, "nat", |b| {
                b.be32(1, 1)
                    .be32(2, if *six { 10 } else { 2 })
                    .be32(3, FIRST + address.0)
                    .be32(5, FIRST + port.0);
            }),
            Self::Snat { six, address } => named(b, "nat", |b| {
                b.be32(1, 0)
                    .be32(2, if *six { 10 } else { 2 })
                    .be32(3, FIRST + address.0);
            }),
            Self::Value(to, value) => named(b, "immediate", |b| {
                b.be32(1, FIRST + to.0).nest(2, |b| {
                    b.bytes(1, value);
                });
            }),
            Self::Masquerade => named(b, "masq", |_| {}),
            Self::Accept => verdict(b, 1, None),
            Self::Drop => verdict(b, 0, None),
            Self::Return => verdict(b, -5, None),
            Self::Jump(chain) => verdict(b, -3, Some(chain)),
        }
    }
}
