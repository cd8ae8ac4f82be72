//! The one table in a container's own namespace: port 53 of its name server leads to where the
//! server's sockets are. They are on other ports so that the container can have a server of its own
//! at 0.0.0.0:53.

use std::net::Ipv4Addr;

use super::Protocol;
use super::expr::{Expr, Load, Register};
use super::table::{self, DEL_TABLE, NEW_CHAIN, NEW_RULE, NEW_TABLE, OURS};
use crate::message::{ACK, APPEND, Batch, CREATE};
use crate::socket::{NetlinkError, Socket};

const NAME: &str = "plimsoll-names";
const CHAIN: &str = "out";
const OUTPUT: u32 = 3;
const DNAT_PRIORITY: i32 = -100;
const R0: Register = Register(0);

/// Has questions to port 53 of `at` go to these ports of it: in the namespace of the calling thread.
pub(crate) fn redirect(at: Ipv4Addr, ports: [(Protocol, u16); 2]) -> Result<(), NetlinkError> {
    let mut b = Batch::default();
    table::begin(&mut b);
    // one that led to sockets which nobody serves is replaced
    for message in [NEW_TABLE, DEL_TABLE, NEW_TABLE] {
        b.message(
            message,
            if message == NEW_TABLE { CREATE } else { 0 },
            &OURS,
        );
        b.str(1, NAME);
    }
    b.message(NEW_CHAIN, CREATE, &OURS);
    b.str(1, NAME).str(3, CHAIN).str(7, "nat");
    b.nest(4, |b| {
        b.be32(1, OUTPUT).be32(2, DNAT_PRIORITY.cast_unsigned());
    });
    for (protocol, port) in ports {
        let expressions = rule(at, protocol, port);
        b.message(NEW_RULE, CREATE | APPEND, &OURS);
        b.str(1, NAME).str(2, CHAIN).nest(4, |b| {
            for expression in &expressions {
                expression.put(b);
            }
        });
    }
    b.flag(ACK);
    table::end(&mut b);
    Socket::netfilter()?.run(&b, "lead questions for names to their server (nftables)")
}

fn rule(at: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<Expr> {
    const IPV4: u8 = 2;
    vec![
        Expr::Load(Load::Family, R0),
        Expr::Equal(R0, vec![IPV4]),
        Expr::Load(Load::Daddr4, R0),
        Expr::Equal(R0, at.octets().to_vec()),
        Expr::Load(Load::Protocol, R0),
        Expr::Equal(R0, vec![protocol.number()]),
        Expr::Load(Load::Dport, R0),
        Expr::Equal(R0, 53_u16.to_be_bytes().to_vec()),
        Expr::Value(R0, at.octets().to_vec()),
        Expr::Value(Register(1), port.to_be_bytes().to_vec()),
        Expr::Dnat {
            six: false,
            address: R0,
            port: Register(1),
        },
    ]
}
